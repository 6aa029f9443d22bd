//! The way of a step's values from device to device, if all ranks have one.

use std::time::Instant;

use burn::tensor::{Tensor, TensorPrimitive, ops::FloatTensor};
use serde::{Deserialize, Serialize};
use vblora::backend::{Exchange, Exchanges, VbLoraBackend};

use super::{Ranks, Sending};
use crate::{
    Error, Result,
    group::{head, hear_each, message},
    train::{parameters::Gradients, step::SlabGradients},
};

/// A value, or why a rank has none.
type Said<T> = std::result::Result<T, String>;

/// The time at which the ranks do this.
const DURING: &str = "before the first step";

/// What this rank says of a stage: `Some` says why it cannot go on.
#[derive(Debug, Serialize, Deserialize)]
struct Answer(Option<String>);

/// What rank 0 says of a stage.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict {
    /// All join the exchange of this name, or use the one that they have joined.
    Go(Vec<u8>),
    /// Messages carry the values.
    Stay,
}

/// Opens the exchange of these ranks, on devices like this one. `None` if messages are to carry the values, because there are no other ranks,
/// the bits depend on the order of sums, or a rank cannot join. The last is said in a warning.
///
/// # Errors
/// A rank does not answer.
pub(in crate::train) fn open<B: VbLoraBackend>(
    ranks: Ranks<'_>,
    device: &B::Device,
) -> Result<Option<Box<dyn Exchange<B>>>> {
    if ranks.size() == 1 || ranks.sending == Sending::EachMicroBatch {
        return Ok(None);
    }
    #[cfg(all(test, feature = "flex"))]
    if let Some(hub) = ranks.hub {
        return Ok(Some(Box::new(hub.clone())));
    }
    match B::exchanges(device) {
        Some(ways) => join(ranks, device, ways),
        None => Ok(None),
    }
}

fn join<B: VbLoraBackend>(
    ranks: Ranks<'_>,
    device: &B::Device,
    ways: Exchanges<B>,
) -> Result<Option<Box<dyn Exchange<B>>>> {
    // Rank 0 may still hear what others say before.
    match ranks.leads() {
        true => say(ranks, &Verdict::Go(Vec::new()))?,
        false => drop(verdict(ranks)?),
    }
    let name = || (ways.name)();
    let Some(name) = stage(ranks, (ways.ready)(), name)? else {
        return Ok(None);
    };
    let place = [ranks.rank(), ranks.size()];
    let started = Instant::now();
    let (joined, refused) = match (ways.join)(device, &name, place, ranks.patience) {
        Ok(joined) => (Some(joined), Ok(())),
        // The device still waits, so nothing else can be done with it.
        Err(reason) if started.elapsed() >= ranks.patience => return Err(failed(reason)),
        Err(reason) => (None, Err(reason)),
    };
    let all = stage(ranks, refused, || Ok(Vec::new()))?;
    Ok(joined.filter(|_| all.is_some()))
}

/// Takes a stage together: all ranks say whether they can go on, and rank 0 whether all do. It adds `words`.
fn stage(
    ranks: Ranks<'_>,
    own: Said<()>,
    words: impl FnOnce() -> Said<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    if !ranks.leads() {
        ranks.group.report(message(&Answer(own.err()), Vec::new())?);
        return verdict(ranks);
    }
    let mut refused = own.err().map(|reason| (0, reason));
    hear_each(ranks.group, ranks.patience, DURING, |from, found| {
        let Answer(reason) = head(from, &found)?;
        refused = refused.take().or(reason.map(|reason| (from, reason)));
        Ok(())
    })?;
    let words = match refused {
        None => words().map_err(|reason| (0, reason)),
        Some(refused) => Err(refused),
    };
    if let Err((rank, reason)) = &words {
        tracing::warn!(
            "gradients travel through the hosts, which takes longer: rank {rank} cannot use NCCL ({reason})"
        );
    }
    let verdict = words
        .as_ref()
        .map_or(Verdict::Stay, |words| Verdict::Go(words.clone()));
    say(ranks, &verdict)?;
    Ok(words.ok())
}

fn say(ranks: Ranks<'_>, verdict: &Verdict) -> Result<()> {
    ranks.group.broadcast(message(verdict, Vec::new())?);
    Ok(())
}

/// What rank 0 says next.
fn verdict(ranks: Ranks<'_>) -> Result<Option<Vec<u8>>> {
    // Rank 0 may itself wait for a rank that hangs.
    let patience = 2 * ranks.patience;
    let Some((_, found)) = ranks.group.receive(patience) else {
        return Err(Error::SilentRank {
            ranks: "rank 0".into(),
            during: DURING.into(),
            seconds: patience.as_secs(),
        });
    };
    Ok(match head(0, &found)? {
        Verdict::Go(words) => Some(words),
        Verdict::Stay => None,
    })
}

/// Tensors that go from device to device.
#[derive(Debug)]
pub(super) struct Values<B: VbLoraBackend> {
    /// Those of the adapter's slabs.
    pub(super) slabs: Vec<Tensor<B, 2>>,
    /// All others.
    pub(super) flat: Vec<Tensor<B, 1>>,
}

impl<B: VbLoraBackend> Values<B> {
    /// The number of values.
    pub(super) fn len(&self) -> usize {
        let slabs = self.slabs.iter().map(|slab| slab.shape().num_elements());
        let flat = self.flat.iter().map(|flat| flat.dims()[0]);
        slabs.chain(flat).sum()
    }

    /// Rank 0's values on every rank. Those of the others only have their shapes.
    pub(super) fn broadcast(self, exchange: &dyn Exchange<B>) -> Self {
        self.through(|tensors| exchange.broadcast(tensors))
    }

    /// The sums of all ranks' values, on rank 0.
    pub(super) fn sum(self, exchange: &dyn Exchange<B>) -> Self {
        self.through(|tensors| exchange.sum(tensors))
    }

    fn through(self, work: impl FnOnce(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>>) -> Self {
        let count = self.slabs.len();
        let slabs = self
            .slabs
            .into_iter()
            .map(|slab| slab.into_primitive().tensor());
        let flat = self
            .flat
            .into_iter()
            .map(|flat| flat.into_primitive().tensor());
        let mut done = work(slabs.chain(flat).collect());
        let flat = done.split_off(count);
        Self {
            slabs: done.into_iter().map(tensor).collect(),
            flat: flat.into_iter().map(tensor).collect(),
        }
    }
}

/// The sum of all ranks' gradients, on rank 0.
pub(super) fn sum<B: VbLoraBackend>(
    exchange: &dyn Exchange<B>,
    own: SlabGradients<B>,
) -> SlabGradients<B> {
    let (paths, mut flat): (Vec<_>, Vec<_>) = own.parameters.into_tensors().into_iter().unzip();
    flat.push(own.loss);
    let slabs = own.slabs;
    let Values { slabs, mut flat } = Values { slabs, flat }.sum(exchange);
    let loss = flat.pop().expect("as many as were given");
    SlabGradients {
        loss,
        parameters: Gradients::from_tensors(paths.into_iter().zip(flat).collect()),
        slabs,
    }
}

fn tensor<B: VbLoraBackend, const D: usize>(values: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(values))
}

/// Fails if an exchange has failed in this step.
pub(super) fn check<B: VbLoraBackend>(exchange: &dyn Exchange<B>) -> Result<()> {
    exchange.check().map_err(failed)
}

fn failed(reason: String) -> Error {
    Error::Program {
        program: "the exchange between devices",
        reason,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::{thread, time::Duration};

    use burn::{backend::Flex, tensor::ops::Device};
    use vblora::backend::Joined;

    use super::{super::hub::Hub, *};
    use crate::group::{Message, Threads};

    fn joins(_: &Device<Flex>, name: &[u8], [_, size]: [usize; 2], _: Duration) -> Joined<Flex> {
        assert_eq!((name, size), (&[7, 8][..], 3));
        Ok(Box::new(Hub::group(1).remove(0)))
    }

    fn one_refuses(
        device: &Device<Flex>,
        name: &[u8],
        place: [usize; 2],
        patience: Duration,
    ) -> Joined<Flex> {
        match place[0] {
            1 => Err("the same card".into()),
            _ => joins(device, name, place, patience),
        }
    }

    /// The number of three ranks that come to use an exchange.
    fn users(ways: impl Fn() -> Exchanges<Flex> + Sync) -> usize {
        let group = Threads::group(3);
        thread::scope(|scope| {
            let ranks = group.iter().enumerate().map(|(rank, seat)| {
                let ways = &ways;
                scope.spawn(move || {
                    let ranks = Ranks::new(seat, Duration::from_secs(20));
                    // What ranks say before. One is late, and the others must not have gone on.
                    match rank {
                        0 => (1..3).for_each(|_| {
                            let (_, found) = ranks.group.receive(ranks.patience).unwrap();
                            assert_eq!(found.head, b"before");
                        }),
                        late => {
                            thread::sleep(Duration::from_millis(100 * (late - 1) as u64));
                            let (head, values) = (b"before".to_vec(), Vec::new());
                            ranks.group.report(Message { head, values });
                        }
                    }
                    join(ranks, &Default::default(), ways()).unwrap().is_some()
                })
            });
            let ranks: Vec<_> = ranks.collect();
            let ranks = ranks.into_iter().map(|rank| rank.join().unwrap());
            ranks.filter(|&uses| uses).count()
        })
    }

    #[test]
    fn all_ranks_use_an_exchange_or_none_does() {
        let whole = || Exchanges {
            ready: || Ok(()),
            name: || Ok(vec![7, 8]),
            join: joins,
        };
        assert_eq!(users(whole), 3);
        assert_eq!(
            users(|| Exchanges {
                join: one_refuses,
                ..whole()
            }),
            0
        );
        let ready = || Err("no library".to_owned());
        assert_eq!(users(|| Exchanges { ready, ..whole() }), 0);
        let name = || Err("no name".to_owned());
        assert_eq!(users(|| Exchanges { name, ..whole() }), 0);
    }
}
