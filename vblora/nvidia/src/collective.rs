//! Sums and copies among the GPUs of several processes, by NVIDIA's NCCL.

use std::{
    cell::RefCell,
    ffi::c_char,
    fmt,
    ptr::{self, with_exposed_provenance, with_exposed_provenance_mut},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use cubecl::{
    Runtime,
    cuda::CudaRuntime,
    device::{Device, DeviceId},
    device_handle::DeviceHandle,
    server::{Binding, ComputeServer},
    stream_id::StreamId,
};
use cudarc::{
    driver::{
        DriverError,
        sys::{CUdeviceptr, CUstream},
    },
    nccl::{
        result::{self as nccl, NcclError},
        sys,
    },
};

use crate::lane::{Lane, current_context, has_context_events};

type Server = <CudaRuntime as Runtime>::Server;

/// The bytes of a group's name.
const NAME_BYTES: usize = 128;

/// Two buffers of an operation, with as many values of f32 each.
#[derive(Debug)]
pub struct Pair {
    /// Is read.
    pub input: Binding,
    /// Is written.
    pub output: Binding,
    /// The number of values.
    pub count: usize,
}

/// This process among those of a group, each with a GPU of its own. Rank 0 leads. The group lasts as long as the process.
///
/// All ranks must ask for the same operations in the same order, over as many values. An operation returns once it is queued.
pub struct Collective {
    device: DeviceId,
    /// The place of this group among [`MEMBERS`].
    index: usize,
    /// Why the first operation failed that did.
    failure: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collective").finish_non_exhaustive()
    }
}

impl Collective {
    /// Says why this process can join no group, if so: NCCL is not there, or the driver does not order a stream of our own.
    ///
    /// # Errors
    /// The reason.
    pub fn ready() -> Result<(), String> {
        if !has_context_events() {
            return Err("the driver is older than that of CUDA 12.5".into());
        }
        // SAFETY: this loads the library, whose initialisers do nothing but set up its own data.
        match unsafe { sys::is_culib_present() } {
            true => Ok(()),
            false => Err("the system's loader finds no libnccl.so".into()),
        }
    }

    /// The name of a new group. One process makes it and tells the others.
    ///
    /// # Errors
    /// NCCL fails; see [`ready`](Self::ready).
    pub fn name() -> Result<Vec<u8>, String> {
        let name = nccl::get_uniqueid().map_err(|error| Failure::from(error).0)?;
        Ok(name.internal.iter().map(|&c| c.cast_unsigned()).collect())
    }

    /// Joins a group as one of `size` ranks. It waits for the others, but no longer than `patience`.
    ///
    /// # Errors
    /// NCCL fails, as it does where two ranks have the same GPU; a rank does not join.
    pub fn join<D: Device>(
        device: &D,
        name: &[u8],
        rank: usize,
        size: usize,
        patience: Duration,
    ) -> Result<Self, String> {
        let name: [u8; NAME_BYTES] = name.try_into().map_err(|_| {
            format!(
                "expected a name of {NAME_BYTES} bytes, found {}",
                name.len()
            )
        })?;
        let name = sys::ncclUniqueId {
            internal: name.map(u8::cast_signed) as [c_char; NAME_BYTES],
        };
        let place = |n: usize| i32::try_from(n).map_err(|_| format!("{n} ranks are too many"));
        let (rank, size) = (place(rank)?, place(size)?);
        let device = device.to_id();
        let (sender, joined) = mpsc::channel();
        queue(device, move |_| {
            // Whoever waited may have given up.
            let _ = sender.send(Member::new(name, rank, size).map(Member::keep));
        });
        let index = match joined.recv_timeout(patience) {
            Ok(joined) => joined.map_err(|failure| failure.0)?,
            Err(_) => return Err(format!("not all joined within {} s", patience.as_secs())),
        };
        Ok(Self {
            device,
            index,
            failure: Arc::default(),
        })
    }

    /// Copies rank 0's inputs to every rank's outputs. The inputs of the others are not read.
    pub fn broadcast(&self, pairs: Vec<Pair>) {
        self.submit(pairs, |[from, to], count, comm, stream| {
            // SAFETY: both buffers have `count` values of f32 and live until CubeCL uses them for later work, which waits for this stream.
            unsafe {
                nccl::broadcast(
                    with_exposed_provenance(from),
                    with_exposed_provenance_mut(to),
                    count,
                    sys::ncclDataType_t::ncclFloat32,
                    0,
                    comm,
                    stream.cast(),
                )
            }
        });
    }

    /// Adds the inputs of all ranks into rank 0's outputs. The outputs of the others are not written.
    pub fn sum(&self, pairs: Vec<Pair>) {
        self.submit(pairs, |[from, to], count, comm, stream| {
            // SAFETY: as in `broadcast`.
            unsafe {
                nccl::reduce(
                    with_exposed_provenance(from),
                    with_exposed_provenance_mut(to),
                    count,
                    sys::ncclDataType_t::ncclFloat32,
                    sys::ncclRedOp_t::ncclSum,
                    0,
                    comm,
                    stream.cast(),
                )
            }
        });
    }

    /// Says whether an operation has failed that the device has got.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().map_or(Ok(()), Err)
    }

    fn submit(&self, pairs: Vec<Pair>, work: Work) {
        let (index, stream) = (self.index, StreamId::current());
        let failure = Arc::clone(&self.failure);
        queue(self.device, move |server| {
            if let Err(Failure(reason)) = run(server, stream, index, pairs, work) {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(reason);
            }
        });
    }
}

/// Gives NCCL one operation, from one address to another, over a number of values.
type Work = fn([usize; 2], usize, sys::ncclComm_t, CUstream) -> Result<nccl::NcclStatus, NcclError>;

/// Gives work to the thread that owns the device. It begins at once: another rank may wait for it, while this one gives the device nothing more.
fn queue(device: DeviceId, work: impl FnOnce(&mut Server) + Send + 'static) {
    let handle = DeviceHandle::<Server>::new(device);
    handle.submit(work);
    handle.flush_queue();
}

/// Runs on the thread that owns the device. All pairs are one launch.
fn run(
    server: &mut Server,
    stream: StreamId,
    index: usize,
    pairs: Vec<Pair>,
    work: Work,
) -> Result<(), Failure> {
    // Held until the lane has the work.
    let mut held = Vec::with_capacity(2 * pairs.len());
    let mut at = |buffer: Binding| -> Result<usize, Failure> {
        let found = server.get_resource(buffer, stream);
        let found = found.map_err(|error| Failure(format!("{error:?}")))?;
        let at: CUdeviceptr = found.resource().ptr;
        held.push(found);
        usize::try_from(at).map_err(|_| Failure(format!("the address {at} is too large")))
    };
    let mut places = Vec::with_capacity(pairs.len());
    for pair in pairs {
        places.push(([at(pair.input)?, at(pair.output)?], pair.count));
    }
    MEMBERS.with_borrow(|members| {
        let member = members
            .get(index)
            .ok_or_else(|| Failure("the group was joined on another thread".into()))?;
        member.lane.between(|stream| {
            nccl::group_start()?;
            let mut places = places.into_iter();
            let given =
                places.try_for_each(|(at, count)| work(at, count, member.comm, stream).map(drop));
            // A group that was begun is ended, whatever came of it.
            nccl::group_end()?;
            given?;
            Ok(())
        })
    })
}

/// A group as NCCL knows it.
struct Member {
    lane: Lane,
    comm: sys::ncclComm_t,
}

thread_local! {
    /// One thread owns a device and gives it all work.
    static MEMBERS: RefCell<Vec<Member>> = const { RefCell::new(Vec::new()) };
}

impl Member {
    fn new(name: sys::ncclUniqueId, rank: i32, size: i32) -> Result<Self, Failure> {
        let lane = Lane::new(current_context()?)?;
        let mut comm = ptr::null_mut();
        // SAFETY: the pointer is valid for writes. CubeCL's context is current on this thread; it is the primary one, which NCCL uses too.
        unsafe { nccl::comm_init_rank(&raw mut comm, size, name, rank) }?;
        Ok(Self { lane, comm })
    }

    /// Keeps the member on this thread, and returns its place there.
    fn keep(self) -> usize {
        MEMBERS.with_borrow_mut(|members| {
            members.push(self);
            members.len() - 1
        })
    }
}

/// Why an operation was not done.
#[derive(Debug)]
struct Failure(String);

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self(error.to_string())
    }
}

impl From<NcclError> for Failure {
    fn from(NcclError(code): NcclError) -> Self {
        Self(format!("NCCL says {code:?}"))
    }
}
