//! A stream of our own in CubeCL's context.
//!
//! CubeCL keeps its streams to itself. A stream beside them is ordered by events of the whole context. It waits for all that the context was
//! given before, and all that follows waits for it. So CubeCL may use a buffer again at once after the work was handed over.

use std::ptr;

use cudarc::driver::{DriverError, sys};

/// The first driver with events of a context: 12.5.
const FIRST_DRIVER: i32 = 12_050;

/// A stream in a context, with the events that order it. It lives as long as the process, as CubeCL's context does.
pub(crate) struct Lane {
    context: sys::CUcontext,
    stream: sys::CUstream,
    before: sys::CUevent,
    after: sys::CUevent,
}

impl Lane {
    /// A lane in the context that is current on this thread.
    pub(crate) fn new(context: sys::CUcontext) -> Result<Self, DriverError> {
        let (mut stream, mut before, mut after) =
            (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let timeless = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the three pointers are valid for writes, and a context is current on this thread.
        unsafe {
            sys::cuStreamCreate(&raw mut stream, apart).result()?;
            sys::cuEventCreate(&raw mut before, timeless).result()?;
            sys::cuEventCreate(&raw mut after, timeless).result()?;
        }
        Ok(Self {
            context,
            stream,
            before,
            after,
        })
    }

    /// Runs `work`, which gives the stream something to do, after all that the context was given and before all that follows.
    pub(crate) fn between<T, E: From<DriverError>>(
        &self,
        work: impl FnOnce(sys::CUstream) -> Result<T, E>,
    ) -> Result<T, E> {
        // SAFETY: context, stream and events are live, see [`Lane`].
        unsafe {
            sys::cuCtxRecordEvent(self.context, self.before).result()?;
            sys::cuStreamWaitEvent(self.stream, self.before, 0).result()?;
        }
        let done = work(self.stream);
        // After a failure too: the stream may hold a part of the work.
        // SAFETY: as above.
        unsafe {
            sys::cuEventRecord(self.after, self.stream).result()?;
            sys::cuCtxWaitEvent(self.context, self.after).result()?;
        }
        done
    }
}

/// The context that is current on this thread.
pub(crate) fn current_context() -> Result<sys::CUcontext, DriverError> {
    let mut context = ptr::null_mut();
    // SAFETY: the pointer is valid for writes.
    unsafe { sys::cuCtxGetCurrent(&raw mut context) }.result()?;
    Ok(context)
}

/// True if the driver orders streams by events of a context.
pub(crate) fn has_context_events() -> bool {
    let mut version = 0;
    // SAFETY: the pointer is valid for writes. The driver is loaded: CubeCL uses it.
    let found = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    found.result().is_ok() && version >= FIRST_DRIVER
}
