//! The parts of a text that `{% generation %}` blocks write. Each template runs on a thread of its own, so that the thread knows.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use minijinja::{Environment, Error, Value};

use super::budget::invalid;

/// The functions that a rewritten template calls where a block begins and ends.
pub(super) const BEGIN: &str = "__generation_begin";
pub(super) const END: &str = "__generation_end";

thread_local! {
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
    static OPEN: Cell<Option<usize>> = const { Cell::new(None) };
    static MARKED: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// The text has so many bytes now.
pub(super) fn written(bytes: usize) {
    WRITTEN.set(bytes);
}

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_function(BEGIN, begin);
    environment.add_function(END, end);
}

fn begin() -> Result<Value, Error> {
    match OPEN.replace(Some(WRITTEN.get())) {
        None => Ok(Value::UNDEFINED),
        Some(_) => Err(invalid("a generation block begins inside another")),
    }
}

fn end() -> Value {
    if let Some(start) = OPEN.take().filter(|start| *start < WRITTEN.get()) {
        MARKED.with_borrow_mut(|marked| marked.push(start..WRITTEN.get()));
    }
    Value::UNDEFINED
}

/// Takes the parts that blocks of this thread's template wrote.
pub(super) fn take() -> Vec<Range<usize>> {
    MARKED.take()
}
