//! Pages in a real browser: Chromium by WebDriver, without a window. Without `chromedriver` the tests say so and pass.

mod driver;
mod pages;
