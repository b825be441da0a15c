//! Which stage runs when: a pure state machine. It is fed with what happened and answers with what to do; nothing here runs, waits or knows the time.

/// A stage, as the scheduler sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The stages it reads from.
    pub(super) needs: Vec<usize>,
    /// CPUs that each of its workers keeps busy.
    pub(super) cpus: u32,
    /// GPUs that each of its workers takes.
    pub(super) gpus: u32,
    /// Whether it is asked for; others are left alone.
    pub(super) wanted: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// The stage has work for this many workers more.
    HasRoom(usize, usize),
    /// A worker of the stage ended; its tokens are free. The first worker ends with `Done` or `Failed`.
    HelperEnded(usize),
    /// The stage is done.
    Done(usize),
    /// The stage failed.
    Failed(usize),
    /// Everything is to stop.
    Cancelled,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    /// Start the stage, with one worker.
    Start(usize),
    /// Give the running stage one worker more.
    Help(usize),
    /// Give the stage up, because of another stage, or because of nobody (cancelled).
    Skip(usize, Option<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
    Ended,
}

/// The state of a run.
#[derive(Debug)]
pub(super) struct Scheduler {
    nodes: Vec<Node>,
    states: Vec<State>,
    room: Vec<usize>,
    free_cpus: u32,
    free_gpus: u32,
    num_running: usize,
    fail_fast: bool,
    stopping: bool,
}

impl Scheduler {
    /// A run of these stages on a machine with so many tokens. A stage that wants more than there is gets all there is.
    pub(super) fn new(mut nodes: Vec<Node>, cpus: u32, gpus: u32, fail_fast: bool) -> Self {
        for node in &mut nodes {
            node.cpus = node.cpus.clamp(1, cpus.max(1));
            node.gpus = node.gpus.min(gpus);
        }
        let (states, room) = (vec![State::Waiting; nodes.len()], vec![0; nodes.len()]);
        let free_cpus = cpus.max(1);
        Self { nodes, states, room, free_cpus, free_gpus: gpus, num_running: 0, fail_fast, stopping: false }
    }

    /// What to do first.
    pub(super) fn begin(&mut self) -> Vec<Do> {
        self.advance()
    }

    /// What to do after something happened.
    pub(super) fn handle(&mut self, happened: Happened) -> Vec<Do> {
        match happened {
            Happened::HasRoom(stage, workers) => self.room[stage] = workers,
            Happened::HelperEnded(stage) => self.release(stage),
            Happened::Done(stage) => self.end(stage, State::Done),
            Happened::Failed(stage) => {
                self.end(stage, State::Ended);
                self.stopping |= self.fail_fast;
            }
            Happened::Cancelled => self.stopping = true,
        }
        self.advance()
    }

    /// Whether nothing runs and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.num_running == 0
            && (0..self.nodes.len()).all(|stage| !self.nodes[stage].wanted || self.states[stage] != State::Waiting)
    }

    fn end(&mut self, stage: usize, state: State) {
        self.states[stage] = state;
        self.room[stage] = 0;
        self.num_running -= 1;
        self.release(stage);
    }

    fn take(&mut self, stage: usize) -> bool {
        let node = &self.nodes[stage];
        let fits = node.cpus <= self.free_cpus && node.gpus <= self.free_gpus;
        if fits {
            self.free_cpus -= node.cpus;
            self.free_gpus -= node.gpus;
        }
        fits
    }

    fn release(&mut self, stage: usize) {
        self.free_cpus += self.nodes[stage].cpus;
        self.free_gpus += self.nodes[stage].gpus;
    }

    fn advance(&mut self) -> Vec<Do> {
        let mut orders = Vec::new();
        // Stages are in topological order, so one sweep settles a whole chain of skips.
        for stage in 0..self.nodes.len() {
            if self.states[stage] != State::Waiting || !self.nodes[stage].wanted {
                continue;
            }
            let ended = self.nodes[stage].needs.iter().copied().find(|&need| self.states[need] == State::Ended);
            if self.stopping || ended.is_some() {
                self.states[stage] = State::Ended;
                orders.push(Do::Skip(stage, ended));
            }
        }
        for stage in 0..self.nodes.len() {
            let ready = self.states[stage] == State::Waiting
                && self.nodes[stage].wanted
                && self.nodes[stage].needs.iter().all(|&need| self.states[need] == State::Done);
            if ready && self.take(stage) {
                self.states[stage] = State::Running;
                self.num_running += 1;
                orders.push(Do::Start(stage));
            }
        }
        // What no stage waits for goes to the running stages that can use it, the earliest first.
        for stage in 0..self.nodes.len() {
            while !self.stopping && self.room[stage] > 0 && self.take(stage) {
                self.room[stage] -= 1;
                orders.push(Do::Help(stage));
            }
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain_and_side() -> Vec<Node> {
        // 0 -> 1 -> 3, 0 -> 2
        let node = |needs: &[usize]| Node { needs: needs.to_vec(), cpus: 1, gpus: 0, wanted: true };
        vec![node(&[]), node(&[0]), node(&[0]), node(&[1])]
    }

    #[test]
    fn independent_stages_run_at_the_same_time() {
        let mut scheduler = Scheduler::new(chain_and_side(), 2, 0, false);
        assert_eq!(scheduler.begin(), [Do::Start(0)]);
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Start(1), Do::Start(2)]);
        assert_eq!(scheduler.handle(Happened::Done(2)), []);
        assert_eq!(scheduler.handle(Happened::Done(1)), [Do::Start(3)]);
        assert_eq!(scheduler.handle(Happened::Done(3)), []);
        assert!(scheduler.is_over());
    }

    #[test]
    fn free_tokens_help_a_running_stage_and_come_back() {
        let mut scheduler = Scheduler::new(chain_and_side(), 2, 0, false);
        scheduler.begin();
        assert_eq!(scheduler.handle(Happened::HasRoom(0, 4)), [Do::Help(0)]);
        assert_eq!(scheduler.handle(Happened::HelperEnded(0)), [Do::Help(0)]);
        scheduler.handle(Happened::HasRoom(0, 0));
        assert_eq!(scheduler.handle(Happened::HelperEnded(0)), []);
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Start(1), Do::Start(2)]);
    }

    #[test]
    fn a_failure_stops_what_depends_on_it_and_nothing_else() {
        let mut scheduler = Scheduler::new(chain_and_side(), 1, 0, false);
        scheduler.begin();
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Start(1)]);
        assert_eq!(scheduler.handle(Happened::Failed(1)), [Do::Skip(3, Some(1)), Do::Start(2)]);
        assert_eq!(scheduler.handle(Happened::Done(2)), []);
        assert!(scheduler.is_over());
    }

    #[test]
    fn fail_fast_and_cancelling_start_nothing_more() {
        let mut scheduler = Scheduler::new(chain_and_side(), 1, 0, true);
        scheduler.begin();
        scheduler.handle(Happened::Done(0));
        assert_eq!(scheduler.handle(Happened::Failed(1)), [Do::Skip(2, None), Do::Skip(3, Some(1))]);
        assert!(scheduler.is_over());

        let mut scheduler = Scheduler::new(chain_and_side(), 1, 0, false);
        scheduler.begin();
        assert_eq!(scheduler.handle(Happened::Cancelled), [Do::Skip(1, None), Do::Skip(2, None), Do::Skip(3, Some(1))]);
        assert!(!scheduler.is_over());
        scheduler.handle(Happened::Failed(0));
        assert!(scheduler.is_over());
    }

    #[test]
    fn a_stage_that_wants_more_than_there_is_gets_all_there_is() {
        let nodes = vec![Node { needs: vec![], cpus: 16, gpus: 1, wanted: true }];
        assert_eq!(Scheduler::new(nodes, 2, 0, false).begin(), [Do::Start(0)]);
    }
}
