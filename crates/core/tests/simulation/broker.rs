//! The broker: two queues by urgency that lose, delay, repeat and reorder messages.

use frameloom_core::id::AttemptId;
use frameloom_core::wire::Task;

use crate::random::{Random, Time};
use crate::scenario::Faults;

/// The queues of one engine's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queue {
    /// Short tasks: plan and concat.
    Control,
    /// Segments.
    Segment,
}

impl Queue {
    /// The queue that a task waits in.
    pub(crate) fn of(task: Task) -> Self {
        match task {
            Task::Detect(_) | Task::Segment(_) => Self::Segment,
            Task::Plan | Task::Track | Task::Concat => Self::Control,
        }
    }
}

/// What a broker carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) job: usize,
    pub(crate) task: Task,
    pub(crate) attempt: AttemptId,
    /// 0 is the most urgent.
    pub(crate) urgency: u8,
}

/// A slot, by its node and its place there; place 0 is the control slot.
pub(crate) type Place = (usize, usize);

/// Messages that wait, and slots that wait for messages.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    messages: Vec<Message>,
    pub(crate) free: Vec<Place>,
}

impl Waiting {
    /// A message and whoever takes it.
    fn pair(&mut self, random: &mut Random) -> Option<(Place, Message)> {
        if self.free.is_empty() {
            return None;
        }
        let first = self.messages.iter().enumerate().min_by_key(|(i, m)| (m.urgency, *i));
        let (at, _) = first?;
        let place = self.free.swap_remove(random.index(self.free.len()));
        Some((place, self.messages.remove(at)))
    }
}

/// The broker.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    control: Waiting,
    segment: Waiting,
    /// It answers nobody until then.
    pub(crate) down_until: Time,
}

impl Broker {
    pub(crate) fn queue(&mut self, queue: Queue) -> &mut Waiting {
        match queue {
            Queue::Control => &mut self.control,
            Queue::Segment => &mut self.segment,
        }
    }

    /// How many messages wait, where it answers.
    pub(crate) fn len(&mut self, queue: Queue, now: Time) -> Option<usize> {
        (self.down_until <= now).then(|| self.queue(queue).messages.len())
    }

    /// When the copies of a message that was sent now arrive.
    pub(crate) fn arrivals(faults: &Faults, random: &mut Random, now: Time) -> Vec<Time> {
        let copies = if random.chance(faults.repeated) { 2 } else { 1 };
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            if random.chance(faults.lost) {
                continue;
            }
            let most = if random.chance(faults.late) { 60_000 } else { 20 };
            arrivals.push(now + random.time(1, most));
        }
        arrivals
    }

    /// A message arrives in its queue.
    pub(crate) fn arrive(&mut self, message: Message, faults: &Faults, random: &mut Random) {
        let waiting = &mut self.queue(Queue::of(message.task)).messages;
        let at = if random.chance(faults.reordered) {
            random.index(waiting.len() + 1)
        } else {
            waiting.len()
        };
        waiting.insert(at, message);
    }

    /// The next message of a queue and the slot that takes it.
    pub(crate) fn pair(
        &mut self,
        queue: Queue,
        now: Time,
        random: &mut Random,
    ) -> Option<(Place, Message)> {
        if self.down_until > now { None } else { self.queue(queue).pair(random) }
    }

    /// Started again, without what waited.
    pub(crate) fn forget(&mut self) {
        self.control.messages.clear();
        self.segment.messages.clear();
    }
}
