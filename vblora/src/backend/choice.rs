//! A backend chosen at run time among those compiled in.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::Tensor;

use super::VbLoraBackend;
use crate::{Error, Result};

/// The backends the library knows, compiled in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// Burn's SIMD CPU backend; the default.
    Flex,
    /// Burn's plain CPU backend.
    NdArray,
    /// GPUs through Vulkan, Metal or DX12.
    Wgpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Work that is generic over the backend; closures cannot be.
pub trait BackendJob: Send {
    /// The result of the work.
    type Output: Send;

    /// Does the work on this backend and device.
    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output;
}

/// The name of the first backend that was compiled in. A run that names no backend takes it.
pub const DEFAULT_BACKEND: &str = if cfg!(feature = "flex") {
    "flex"
} else if cfg!(feature = "ndarray") {
    "ndarray"
} else if cfg!(feature = "cuda") {
    "cuda"
} else {
    "wgpu"
};

impl BackendKind {
    const ALL: [Self; 4] = [Self::Flex, Self::NdArray, Self::Wgpu, Self::Cuda];

    /// The name on the command line, which is the feature's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// True if this program was built with it.
    pub fn is_compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    /// Runs `job` on this backend's device number `device`, after a check that the device computes.
    ///
    /// # Errors
    /// The backend is not compiled in, or the device is not there or does not work.
    pub fn dispatch<J: BackendJob>(self, device: usize, job: J) -> Result<J::Output> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => {
                let only = self.only_device(device)?;
                self.pool(device)?
                    .install(|| self.start::<burn::backend::Flex, J>(only, device, job))
            }
            #[cfg(feature = "ndarray")]
            Self::NdArray => {
                self.start::<burn::backend::NdArray, J>(self.only_device(device)?, device, job)
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu => self.start::<super::Wgpu, J>(wgpu_device(device), device, job),
            #[cfg(feature = "cuda")]
            Self::Cuda => {
                super::gpu::cache::keep_kernels();
                let chosen = burn::backend::cuda::CudaDevice::new(device);
                self.start::<super::Cuda, J>(chosen, device, job)
            }
            #[allow(unreachable_patterns)]
            _ => Err(self.not_compiled()),
        }
    }

    /// A pool for one job, with as many threads as rayon would use. Outside a pool, every parallel operation hands its work over and sleeps.
    /// Jobs must not share a pool: a thread that waits within a backward pass may start another job meanwhile. That job then waits for the
    /// lock that the backward pass holds.
    #[cfg(feature = "flex")]
    fn pool(self, device: usize) -> Result<rayon::ThreadPool> {
        let threads = rayon::current_num_threads();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().map_err(|e| Error::Device {
            backend: self.name(),
            device,
            reason: format!("cannot start {threads} threads: {e}"),
        })
    }

    fn start<B: VbLoraBackend, J: BackendJob>(
        self,
        device: B::Device,
        index: usize,
        job: J,
    ) -> Result<J::Output> {
        probe::<B>(&device).map_err(|reason| Error::Device {
            backend: self.name(),
            device: index,
            reason,
        })?;
        Ok(job.run::<B>(device))
    }

    /// CPU backends have one device.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    fn only_device<D: Default>(self, device: usize) -> Result<D> {
        if device == 0 {
            return Ok(D::default());
        }
        let reason = "the CPU is device 0 and there is no other".into();
        Err(Error::Device {
            backend: self.name(),
            device,
            reason,
        })
    }

    fn not_compiled(self) -> Error {
        let compiled: Vec<_> = Self::ALL
            .into_iter()
            .filter(|b| b.is_compiled())
            .map(Self::name)
            .collect();
        Error::NotCompiled {
            name: self.name(),
            compiled: compiled.join(", "),
        }
    }
}

/// Device 0 is the best one there is, a software driver included; a higher number counts discrete GPUs.
#[cfg(feature = "wgpu")]
fn wgpu_device(index: usize) -> burn::backend::wgpu::WgpuDevice {
    use burn::backend::wgpu::WgpuDevice;
    if index == 0 {
        WgpuDevice::DefaultDevice
    } else {
        WgpuDevice::DiscreteGpu(index)
    }
}

/// Computes a sum whose value is known. Missing drivers and devices show as panics inside the backends, so those are caught here, before
/// any work is done.
fn probe<B: VbLoraBackend>(device: &B::Device) -> Result<(), String> {
    let outcome = first_panic(|| {
        let sum = Tensor::<B, 1>::from_floats([1.0, 2.0, 4.0], device)
            .sum()
            .try_into_data();
        B::sync(device).map_err(|e| format!("{e:?}"))?;
        sum.map_err(|e| format!("{e:?}"))?
            .to_vec::<f32>()
            .map_err(|e| format!("{e:?}"))
    });
    match outcome {
        Ok(Ok(sum)) if sum == [7.0] => Ok(()),
        Ok(Ok(sum)) => Err(format!("the device is broken: 1 + 2 + 4 gave {sum:?}")),
        Ok(Err(reason)) => Err(first_line(&reason)),
        Err(reason) => Err(first_line(&reason)),
    }
}

/// Runs `work`. If it panics, the error is the first panic's message. A backend works on a thread of its own. When that thread panics, the
/// caller only learns that the thread is gone, and panics second.
fn first_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The process has one hook.
    static HOOK: Mutex<()> = Mutex::new(());
    let _alone = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let first = Arc::new(Mutex::new(None));
    let hook = std::panic::take_hook();
    let seen = first.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().map(str::to_owned);
        let mut first = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *first = first.take().or(message);
    }));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.map_err(|_| first.take().unwrap_or("the backend could not start".into()))
}

fn first_line(text: &str) -> String {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no reason given")
        .trim()
        .to_owned()
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        let kind = kind
            .ok_or_else(|| Error::setting("backend", "one of flex, ndarray, wgpu, cuda", text))?;
        if kind.is_compiled() {
            Ok(kind)
        } else {
            Err(kind.not_compiled())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Name;

    impl BackendJob for Name {
        type Output = String;

        fn run<B: VbLoraBackend>(self, device: B::Device) -> String {
            B::name(&device)
        }
    }

    /// Without a driver CUDA fails on a thread of its own.
    #[test]
    fn the_first_panic_is_the_reason() {
        let fails = || {
            let gone = std::thread::spawn(|| panic!("no driver")).join();
            gone.map_err(|_| ()).unwrap()
        };
        assert_eq!(first_panic(fails), Err("no driver".into()));
        assert_eq!(first_panic(|| 7), Ok(7));
    }

    #[cfg(feature = "flex")]
    #[test]
    fn runs_on_the_named_backend() {
        let kind: BackendKind = "flex".parse().unwrap();
        assert_eq!(kind.dispatch(0, Name).unwrap(), "flex");
        let message = kind.dispatch(1, Name).unwrap_err().to_string();
        assert!(
            message.contains("flex") && message.contains("device 1"),
            "{message}"
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn each_job_computes_on_threads_of_its_own() {
        struct Threads;

        impl BackendJob for Threads {
            type Output = (Option<usize>, Vec<std::thread::ThreadId>);

            fn run<B: VbLoraBackend>(self, _: B::Device) -> Self::Output {
                let ids = rayon::broadcast(|_| std::thread::current().id());
                (rayon::current_thread_index(), ids)
            }
        }

        let run = || BackendKind::Flex.dispatch(0, Threads).unwrap();
        let ((first, ids), (second, others)) = (run(), run());
        assert!(
            first.is_some() && second.is_some(),
            "both run inside a pool"
        );
        assert_eq!(ids.len(), rayon::current_num_threads());
        assert!(ids.iter().all(|id| !others.contains(id)));
    }

    #[test]
    fn a_name_nobody_knows() {
        let message = "tpu".parse::<BackendKind>().unwrap_err().to_string();
        assert!(
            message.contains("tpu") && message.contains("flex"),
            "{message}"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_left_out_names_its_feature() {
        let message = "cuda".parse::<BackendKind>().unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
}
