//! Ranks that are processes of MPI, on one host or on many.
//!
//! One thread makes all calls of MPI (`MPI_THREAD_FUNNELED`). It takes messages in while this process computes, passes messages to all on
//! along a tree, and shows the other ranks that rank 0 lives.

use std::{
    collections::{BTreeMap, VecDeque},
    process,
    rc::Rc,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use mpi::{
    Threading,
    point_to_point::{Message as Matched, Status},
    request::{Request, Scope, StaticScope, scope},
    topology::SimpleCommunicator,
    traits::{Communicator, Destination, Equivalence, Source},
};

use super::{Group, Message, Place};
use crate::{Error, Result};

/// How long the thread sleeps between two looks for messages.
const PAUSE: Duration = Duration::from_micros(50);

/// How long a message is pushed on without sleep.
const EAGER: Duration = Duration::from_millis(2);

/// The longest time between two signs of life of rank 0.
const BEAT: Duration = Duration::from_secs(5);

/// How long MPI may take to end the job.
const LAST: Duration = Duration::from_secs(5);

/// The kinds of MPI's messages.
mod tag {
    /// The head of a message to rank 0.
    pub(super) const REPORT: i32 = 1;
    /// The head of a message to all.
    pub(super) const BROADCAST: i32 = 2;
    /// The numbers of the message whose head came before.
    pub(super) const VALUES: i32 = 3;
    /// Rank 0 lives.
    pub(super) const BEAT: i32 = 4;
    /// Rank 0 leaves.
    pub(super) const GOODBYE: i32 = 5;
    /// Rank 0 asks whether a rank lives.
    pub(super) const ASK: i32 = 6;
    /// It does.
    pub(super) const ALIVE: i32 = 7;
}

/// The content of messages that have none.
static NOTHING: [u8; 0] = [];

/// This process among those that MPI has started.
#[derive(Debug)]
pub(super) struct World {
    place: Place,
    commands: Sender<Command>,
    arrivals: Mutex<Receiver<Arrival>>,
    ended: Mutex<Receiver<()>>,
}

/// What the thread of MPI is asked to do.
#[derive(Debug)]
enum Command {
    Report(Message),
    Broadcast(Message),
    /// To ask these ranks whether they live.
    Ask(Vec<usize>),
    /// To leave the job once all has been sent.
    Close,
    /// To end all processes of the job.
    Abort,
}

/// What has come from another rank.
#[derive(Debug)]
enum Arrival {
    Message(usize, Arc<Message>),
    Beat,
    /// This rank lives.
    Alive(usize),
}

impl World {
    /// Starts MPI on a thread of its own. `patience` is how long other ranks wait for a sign of life.
    ///
    /// # Errors
    /// The thread cannot be started, or MPI runs already.
    pub(super) fn open(patience: Duration) -> Result<Self> {
        let failed = |reason: String| Error::Program {
            program: "MPI",
            reason,
        };
        let (commands, orders) = channel();
        let (found, arrivals) = channel();
        let (place, started) = channel();
        let (end, ended) = channel();
        let beat = BEAT.min(patience / 4);
        let work = move || serve(&place, orders, found, beat, &end);
        let thread = thread::Builder::new().name("mpi".into());
        thread
            .spawn(work)
            .map_err(|cause| failed(format!("cannot start a thread: {cause}")))?;
        let place = started
            .recv()
            .map_err(|_| failed("cannot start in this process".into()))?;
        Ok(Self {
            place,
            commands,
            arrivals: Mutex::new(arrivals),
            ended: Mutex::new(ended),
        })
    }

    /// Leaves the job, once all its processes do. Rank 0 may have work of its own until then, and shows that it lives.
    ///
    /// # Errors
    /// Another process has neither left nor shown that it lives for as long as `patience`.
    pub(super) fn close(self, patience: Duration) -> Result<()> {
        self.command(Command::Close);
        let ended = self.ended.into_inner().expect("no other thread waits");
        let arrivals = self
            .arrivals
            .into_inner()
            .expect("no other thread receives");
        if await_end(&ended, &arrivals, patience) {
            return Ok(());
        }
        let others = match self.place.rank {
            0 => "another rank",
            _ => "rank 0",
        };
        Err(Error::SilentRank {
            ranks: others.into(),
            during: "at the end of the job".into(),
            seconds: patience.as_secs(),
        })
    }

    /// Ends all processes of the job with exit code 1.
    pub(super) fn abort(&self) -> ! {
        self.command(Command::Abort);
        // The thread of MPI ends this process. If it is stuck, the launcher ends the others when this one has ended.
        thread::sleep(LAST);
        process::exit(1)
    }

    /// The thread takes commands until it has left the job.
    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// Waits for the end, for as long as something arrives at least every `patience`. Returns false if nothing does.
fn await_end(ended: &Receiver<()>, arrivals: &Receiver<Arrival>, patience: Duration) -> bool {
    loop {
        match ended.recv_timeout(patience) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Timeout) if arrivals.try_iter().count() > 0 => {}
            Err(_) => return false,
        }
    }
}

impl Group for World {
    fn place(&self) -> Place {
        self.place
    }

    fn broadcast(&self, message: Message) {
        self.command(Command::Broadcast(message));
    }

    fn report(&self, message: Message) {
        self.command(Command::Report(message));
    }

    fn receive(&self, patience: Duration) -> Option<(usize, Arc<Message>)> {
        let arrivals = self.arrivals.lock().expect("no other thread receives");
        loop {
            match arrivals.recv_timeout(patience) {
                Ok(Arrival::Message(from, message)) => return Some((from, message)),
                Ok(Arrival::Beat | Arrival::Alive(_)) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                // The thread of MPI has panicked. Nothing more will come.
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(patience);
                    return None;
                }
            }
        }
    }

    fn lifeless(&self, ranks: &[usize], patience: Duration) -> Vec<usize> {
        self.command(Command::Ask(ranks.to_vec()));
        let arrivals = self.arrivals.lock().expect("no other thread receives");
        let until = Instant::now() + patience;
        let mut silent = ranks.to_vec();
        while !silent.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            match arrivals.recv_timeout(left) {
                Ok(Arrival::Alive(rank)) => silent.retain(|silent| *silent != rank),
                Ok(Arrival::Message(..) | Arrival::Beat) => {}
                Err(_) => break,
            }
        }
        silent
    }
}

/// The whole life of MPI in this process, on one thread.
fn serve(
    place: &Sender<Place>,
    commands: Receiver<Command>,
    arrivals: Sender<Arrival>,
    beat: Duration,
    end: &Sender<()>,
) {
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        return;
    };
    let world = universe.world();
    let here = {
        let local = world.split_shared(world.rank());
        Place {
            rank: world.rank() as usize,
            size: world.size() as usize,
            local_rank: local.rank() as usize,
            local_size: local.size() as usize,
        }
    };
    let _ = place.send(here);
    let mut courier = Courier {
        world: Rc::new(world),
        here,
        commands,
        arrivals,
        heads: BTreeMap::new(),
        outgoing: VecDeque::new(),
        signals: Vec::new(),
        beat,
        beaten: Instant::now(),
        is_closing: false,
        is_released: false,
    };
    courier.run();
    drop(courier);
    // Waits until every rank has come this far.
    drop(universe);
    let _ = end.send(());
}

/// Carries messages between this process and the others.
struct Courier {
    world: Rc<SimpleCommunicator>,
    here: Place,
    commands: Receiver<Command>,
    arrivals: Sender<Arrival>,
    /// Heads whose numbers have not come yet, by rank.
    heads: BTreeMap<i32, (i32, Vec<u8>)>,
    outgoing: VecDeque<Parcel>,
    /// Messages without content that do not wait for others before them.
    signals: Vec<Signal>,
    beat: Duration,
    beaten: Instant,
    is_closing: bool,
    is_released: bool,
}

/// A message without content on its way to a rank.
type Signal = Request<'static, [u8], StaticScope>;

/// A message on its way to a rank.
struct Parcel {
    to: usize,
    tag: i32,
    /// `None` for kinds that have no content.
    message: Option<Arc<Message>>,
}

impl Courier {
    fn run(&mut self) {
        loop {
            let is_busy = self.take_arrivals() || !self.outgoing.is_empty();
            self.take_commands(if is_busy { Duration::ZERO } else { PAUSE });
            self.show_life();
            self.forget_signals();
            match self.outgoing.pop_front() {
                Some(parcel) => self.deliver(&parcel),
                None if self.is_closing && self.may_leave() => return,
                None => {}
            }
        }
    }

    /// Rank 0 tells the others to leave, and they wait for that: leaving MPI keeps a processor busy until all do.
    fn may_leave(&mut self) -> bool {
        if self.here.rank == 0 && !self.is_released {
            self.is_released = true;
            self.send_down(tag::GOODBYE, None);
            return false;
        }
        self.is_released
    }

    fn show_life(&mut self) {
        if self.here.rank == 0 && self.beaten.elapsed() >= self.beat {
            self.beaten = Instant::now();
            self.send_down(tag::BEAT, None);
        }
    }

    /// Sends what comes from rank 0 on its way along a binomial tree.
    fn send_down(&mut self, tag: i32, message: Option<&Arc<Message>>) {
        for to in children(self.here.rank, self.here.size) {
            let message = message.cloned();
            self.outgoing.push_back(Parcel { to, tag, message });
        }
    }

    /// Sends a message without content at once, even while another message waits for a rank that hangs.
    fn signal(&mut self, to: usize, tag: i32) {
        let to = self.world.process_at_rank(to as i32);
        let sent = to.immediate_send_with_tag(StaticScope, &NOTHING[..], tag);
        self.signals.push(sent);
    }

    /// Lets go of the signals that have been sent.
    fn forget_signals(&mut self) {
        let signals = std::mem::take(&mut self.signals).into_iter();
        self.signals = signals.filter_map(|signal| signal.test().err()).collect();
    }

    /// Waits for commands, for at most this long.
    fn take_commands(&mut self, wait: Duration) {
        let mut next = self.commands.recv_timeout(wait);
        loop {
            match next {
                Ok(Command::Broadcast(message)) => {
                    self.send_down(tag::BROADCAST, Some(&Arc::new(message)));
                }
                Ok(Command::Report(message)) => self.outgoing.push_back(Parcel {
                    to: 0,
                    tag: tag::REPORT,
                    message: Some(Arc::new(message)),
                }),
                Ok(Command::Ask(ranks)) => {
                    for rank in ranks {
                        self.signal(rank, tag::ASK);
                    }
                }
                Ok(Command::Close) => self.is_closing = true,
                Ok(Command::Abort) => self.world.abort(1),
                // This process has ended its work without leaving the job: it panics.
                Err(RecvTimeoutError::Disconnected) if !self.is_closing => self.world.abort(1),
                Err(_) => return,
            }
            next = self.commands.recv_timeout(Duration::ZERO);
        }
    }

    /// Takes in all messages that are here. Returns false if there are none.
    fn take_arrivals(&mut self) -> bool {
        let world = Rc::clone(&self.world);
        let mut is_any = false;
        while let Some((matched, status)) = world.any_process().immediate_matched_probe() {
            self.take(matched, status);
            is_any = true;
        }
        is_any
    }

    fn take(&mut self, matched: Matched, status: Status) {
        let (from, kind) = (status.source_rank(), status.tag());
        if kind == tag::VALUES {
            let mut values = vec![0.0; count::<f32>(status)];
            matched.matched_receive_into(&mut values[..]);
            if let Some((kind, head)) = self.heads.remove(&from) {
                self.pass(from, kind, Message { head, values });
            }
            return;
        }
        let mut head = vec![0_u8; count::<u8>(status)];
        matched.matched_receive_into(&mut head[..]);
        match kind {
            tag::BEAT => {
                self.send_down(tag::BEAT, None);
                let _ = self.arrivals.send(Arrival::Beat);
            }
            tag::GOODBYE => {
                self.send_down(tag::GOODBYE, None);
                self.is_released = true;
            }
            tag::ASK => self.signal(from as usize, tag::ALIVE),
            tag::ALIVE => drop(self.arrivals.send(Arrival::Alive(from as usize))),
            kind => drop(self.heads.insert(from, (kind, head))),
        }
    }

    /// Gives a whole message to this process. One to all goes on, and is from rank 0 whichever rank has passed it on.
    fn pass(&mut self, from: i32, kind: i32, message: Message) {
        let message = Arc::new(message);
        let from = match kind {
            tag::BROADCAST => {
                self.send_down(tag::BROADCAST, Some(&message));
                0
            }
            _ => from as usize,
        };
        // A process that has ended its work takes no more messages.
        let _ = self.arrivals.send(Arrival::Message(from, message));
    }

    /// Sends a message, and takes in others meanwhile, so that two ranks that send to each other do not wait for each other.
    fn deliver(&mut self, parcel: &Parcel) {
        let world = Rc::clone(&self.world);
        let to = world.process_at_rank(parcel.to as i32);
        let (head, values): (&[u8], Option<&[f32]>) = match &parcel.message {
            Some(message) => (&message.head, Some(&message.values)),
            None => (&[], None),
        };
        scope(|scope| {
            let head = to.immediate_send_with_tag(scope, head, parcel.tag);
            let values =
                values.map(|values| to.immediate_send_with_tag(scope, values, tag::VALUES));
            self.finish(head);
            if let Some(values) = values {
                self.finish(values);
            }
        });
    }

    fn finish<'a, D: ?Sized, S: Scope<'a>>(&mut self, mut request: Request<'a, D, S>) {
        let started = Instant::now();
        while let Err(pending) = request.test() {
            request = pending;
            let is_busy = self.take_arrivals();
            self.take_commands(Duration::ZERO);
            match is_busy || started.elapsed() < EAGER {
                true => thread::yield_now(),
                false => thread::sleep(PAUSE),
            }
        }
    }
}

/// The number of elements of this type in a message.
fn count<T: Equivalence>(status: Status) -> usize {
    usize::try_from(status.count(T::equivalent_datatype())).unwrap_or(0)
}

/// The ranks that a rank passes a message to all on to, in the binomial tree below rank 0.
fn children(rank: usize, size: usize) -> Vec<usize> {
    let powers = (0..usize::BITS).map(|bit| 1_usize << bit);
    let powers = powers.take_while(|power| *power < size);
    let found = powers.filter(|power| *power > rank);
    let found = found.map(|power| rank + power);
    found.filter(|child| *child < size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_but_the_first_gets_a_message_to_all_once() {
        for size in 1..70 {
            let all = (0..size).flat_map(|rank| children(rank, size));
            let mut all: Vec<usize> = all.collect();
            all.sort_unstable();
            assert_eq!(all, (1..size).collect::<Vec<_>>(), "{size}");
        }
        // A rank that hangs keeps messages from those below it.
        assert_eq!(children(1, 4), [3]);
        assert_eq!(children(0, 8), [1, 2, 4]);
        assert_eq!(children(1, 8), [3, 5]);
    }

    #[test]
    fn a_rank_waits_for_the_end_while_rank_0_lives() {
        let patience = Duration::from_millis(200);
        let ((end, ended), (found, arrivals)) = (channel(), channel());
        // Rank 0 works for three times as long as others wait, and shows that it lives.
        let works = thread::spawn(move || {
            for _ in 0..12 {
                thread::sleep(patience / 4);
                found.send(Arrival::Beat).unwrap();
            }
            end.send(()).unwrap();
            found
        });
        let started = Instant::now();
        assert!(await_end(&ended, &arrivals, patience));
        assert!(started.elapsed() >= 3 * patience);
        let _found = works.join().unwrap();
    }

    #[test]
    fn a_rank_gives_up_at_the_end_if_rank_0_is_silent() {
        let patience = Duration::from_millis(100);
        let ((_end, ended), (found, arrivals)) = (channel(), channel());
        found.send(Arrival::Beat).unwrap();
        let started = Instant::now();
        assert!(!await_end(&ended, &arrivals, patience));
        // The sign of life was good for one more time.
        assert!(started.elapsed() >= 2 * patience);
    }
}
