//! Panics of other crates, which become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is to be an error, of which nothing is printed.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on input from outside. The message of a panic comes back, and nothing is printed.
///
/// # Errors
/// The work panics: its message.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let printing = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                printing(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    // What panicked is dropped or, like a tokenizer, was only read.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    done.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(contain(|| 3), Ok(3));
        let found = contain::<u8>(|| panic!("nobody is there"));
        assert_eq!(found, Err("nobody is there".to_owned()));
        // An inner one does not let the outer one's panics be printed.
        assert!(contain(|| contain::<()>(|| panic!("inner")).unwrap()).is_err());
        assert!(!CONTAINED.get());
    }
}
