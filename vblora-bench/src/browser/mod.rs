//! Tests of pages in a real browser: Chromium over WebDriver, without a window. Without `chromedriver` the tests print a line and pass.

mod driver;
mod pages;
