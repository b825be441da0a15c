//! Which stage runs when: a pure state machine. It is fed with what happened and answers with what to do; nothing here runs, waits or knows the time.

/// A stage, as the scheduler sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The stages it reads from.
    pub(super) needs: Vec<usize>,
    /// The one of them on whose rows it can work while that still runs.
    pub(super) follows: Option<usize>,
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
    /// The stage, which does not run yet, has work for so many workers in all, on what the stage that it follows has given so far.
    CanGoAhead(usize, usize),
    /// A worker that went ahead ended; its tokens are free.
    AheadEnded(usize),
    /// The stage waits for somebody outside, and gives its tokens back.
    Waits(usize),
    /// The stage need not wait any longer: it asks for tokens again.
    WantsOn(usize),
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
    /// Let the stage that waited go on, with one worker.
    GoOn(usize),
    /// Give the running stage one worker more.
    Help(usize),
    /// Let one of the helpers of the running stage end, once it has done what it has.
    Release(usize),
    /// Start a worker of the stage on what the stage that it follows has given so far.
    GoAhead(usize),
    /// Tell the stage that waits that it is not to run any more; it answers with `Failed`, or with `Done` after all.
    GiveUp(usize),
    /// Give the stage up, because of another stage, or because of nobody (cancelled).
    Skip(usize, Option<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// It was started, and has given its tokens back until somebody outside is done.
    Parked,
    /// As `Parked`, but somebody is done.
    Unparked,
    Done,
    Ended,
}

/// The state of a run.
#[derive(Debug)]
pub(super) struct Scheduler {
    nodes: Vec<Node>,
    states: Vec<State>,
    room: Vec<usize>,
    /// Helpers, and those of them that were told to end.
    helpers: Vec<(usize, usize)>,
    /// Workers that could go ahead, and those that do.
    ahead: Vec<(usize, usize)>,
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
        let count = nodes.len();
        Self {
            nodes,
            states: vec![State::Waiting; count],
            room: vec![0; count],
            helpers: vec![(0, 0); count],
            ahead: vec![(0, 0); count],
            free_cpus: cpus.max(1),
            free_gpus: gpus,
            num_running: 0,
            fail_fast,
            stopping: false,
        }
    }

    /// What to do first.
    pub(super) fn begin(&mut self) -> Vec<Do> {
        self.advance()
    }

    /// What to do after something happened.
    pub(super) fn handle(&mut self, happened: Happened) -> Vec<Do> {
        let was_stopping = self.stopping;
        match happened {
            Happened::HasRoom(stage, workers) => self.room[stage] = workers,
            Happened::HelperEnded(stage) => {
                let (busy, leaving) = self.helpers[stage];
                self.helpers[stage] = (busy - 1, leaving.saturating_sub(1));
                self.release(stage);
            }
            Happened::CanGoAhead(stage, workers) => self.ahead[stage].0 = workers,
            Happened::AheadEnded(stage) => {
                self.ahead[stage].1 -= 1;
                self.release(stage);
            }
            Happened::Waits(stage) => {
                self.states[stage] = State::Parked;
                self.release(stage);
            }
            Happened::WantsOn(stage) => self.states[stage] = State::Unparked,
            Happened::Done(stage) => self.end(stage, State::Done),
            Happened::Failed(stage) => {
                self.end(stage, State::Ended);
                self.stopping |= self.fail_fast;
            }
            Happened::Cancelled => self.stopping = true,
        }
        let mut orders = self.advance();
        // Whoever waits when the run begins to stop is told so, and whoever waits from then on.
        for stage in 0..self.nodes.len() {
            let waits = matches!(self.states[stage], State::Parked | State::Unparked);
            let is_new = !was_stopping || happened == Happened::Waits(stage);
            if self.stopping && waits && is_new {
                orders.push(Do::GiveUp(stage));
            }
        }
        orders
    }

    /// Whether nothing runs and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.num_running == 0
            && (0..self.nodes.len()).all(|stage| !self.nodes[stage].wanted || self.states[stage] != State::Waiting)
    }

    fn end(&mut self, stage: usize, state: State) {
        let held = self.states[stage] == State::Running;
        self.states[stage] = state;
        self.room[stage] = 0;
        self.num_running -= 1;
        if held {
            self.release(stage);
        }
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
            if self.is_ready(stage) && self.take(stage) {
                let order = if self.states[stage] == State::Waiting { Do::Start(stage) } else { Do::GoOn(stage) };
                self.num_running += usize::from(order == Do::Start(stage));
                self.states[stage] = State::Running;
                orders.push(order);
            }
        }
        if self.stopping {
            return orders;
        }
        // What no stage waits for goes to those that can work ahead: what is made is used up, and not only made faster.
        for stage in 0..self.nodes.len() {
            while self.can_go_ahead(stage) && self.take(stage) {
                self.ahead[stage].1 += 1;
                orders.push(Do::GoAhead(stage));
            }
        }
        // Helpers make room for a stage that found none, and for a first worker that goes ahead.
        let wanting = (0..self.nodes.len())
            .find(|&stage| self.is_ready(stage))
            .or_else(|| (0..self.nodes.len()).find(|&stage| self.can_go_ahead(stage) && self.ahead[stage].1 == 0));
        if wanting.is_some_and(|stage| self.make_room(stage, &mut orders)) {
            return orders;
        }
        // The rest goes to the running stages that can use it, the earliest first.
        for stage in 0..self.nodes.len() {
            while self.room[stage] > 0 && self.take(stage) {
                self.room[stage] -= 1;
                self.helpers[stage].0 += 1;
                orders.push(Do::Help(stage));
            }
        }
        orders
    }

    /// Whether a stage only lacks tokens.
    fn is_ready(&self, stage: usize) -> bool {
        match self.states[stage] {
            State::Waiting => {
                let node = &self.nodes[stage];
                node.wanted && node.needs.iter().all(|&need| self.states[need] == State::Done)
            }
            State::Unparked => !self.stopping,
            _ => false,
        }
    }

    /// Tells as many helpers to end as hold the tokens that a stage lacks. Returns whether it will have them.
    fn make_room(&mut self, stage: usize, orders: &mut Vec<Do>) -> bool {
        let (wants, mut helpers) = (self.nodes[stage].clone(), self.helpers.clone());
        let (mut cpus, mut gpus) = (self.free_cpus, self.free_gpus);
        for (node, (_, leaving)) in self.nodes.iter().zip(&helpers) {
            cpus += node.cpus * *leaving as u32;
            gpus += node.gpus * *leaving as u32;
        }
        let mut told = Vec::new();
        while cpus < wants.cpus || gpus < wants.gpus {
            let stays = |helper: usize| helpers[helper].0 - helpers[helper].1;
            let of_use = |helper: usize| cpus < wants.cpus || self.nodes[helper].gpus > 0;
            let most =
                (0..helpers.len()).filter(|&helper| stays(helper) > 0 && of_use(helper)).max_by_key(|&h| stays(h));
            let Some(helper) = most else { return false };
            helpers[helper].1 += 1;
            cpus += self.nodes[helper].cpus;
            gpus += self.nodes[helper].gpus;
            told.push(Do::Release(helper));
        }
        self.helpers = helpers;
        orders.extend(told);
        true
    }

    /// Whether a worker more of the stage could work on what the stage above has given so far, all other inputs being there.
    fn can_go_ahead(&self, stage: usize) -> bool {
        let (node, (workers, busy)) = (&self.nodes[stage], self.ahead[stage]);
        let Some(above) = node.follows else { return false };
        busy < workers
            && node.wanted
            && self.states[stage] == State::Waiting
            && self.states[above] == State::Running
            && node.needs.iter().all(|&need| need == above || self.states[need] == State::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain_and_side() -> Vec<Node> {
        // 0 -> 1 -> 3, 0 -> 2
        let node = |needs: &[usize]| Node { needs: needs.to_vec(), cpus: 1, wanted: true, ..Node::default() };
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
        let nodes = vec![Node { cpus: 16, gpus: 1, wanted: true, ..Node::default() }];
        assert_eq!(Scheduler::new(nodes, 2, 0, false).begin(), [Do::Start(0)]);
    }

    /// 0 -> 1 -> 2, where 2 follows 1 and needs 0 as well; 3 stands alone.
    fn followed() -> Vec<Node> {
        let node = |needs: &[usize], follows| Node {
            needs: needs.to_vec(),
            follows,
            cpus: 1,
            wanted: true,
            ..Node::default()
        };
        vec![node(&[], None), node(&[0], None), node(&[0, 1], Some(1)), node(&[], None)]
    }

    #[test]
    fn what_follows_goes_ahead_of_helpers_but_not_of_a_stage_that_is_ready() {
        let mut scheduler = Scheduler::new(followed(), 3, 0, false);
        assert_eq!(scheduler.begin(), [Do::Start(0), Do::Start(3)]);
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Start(1)]);
        assert_eq!(scheduler.handle(Happened::CanGoAhead(2, 1)), [Do::GoAhead(2)]);
        assert_eq!(scheduler.handle(Happened::HasRoom(1, 9)), []);
        // What is freed goes to one that can work ahead, then to helpers.
        assert_eq!(scheduler.handle(Happened::CanGoAhead(2, 2)), []);
        assert_eq!(scheduler.handle(Happened::Done(3)), [Do::GoAhead(2)]);
        scheduler.handle(Happened::CanGoAhead(2, 0));
        assert_eq!(scheduler.handle(Happened::AheadEnded(2)), [Do::Help(1)]);
        assert_eq!(scheduler.handle(Happened::AheadEnded(2)), [Do::Help(1)]);
        scheduler.handle(Happened::HasRoom(1, 0));
        scheduler.handle(Happened::HelperEnded(1));
        scheduler.handle(Happened::HelperEnded(1));
        assert_eq!(scheduler.handle(Happened::Done(1)), [Do::Start(2)]);
        assert_eq!(scheduler.handle(Happened::Done(2)), []);
        assert!(scheduler.is_over());
        assert_eq!(scheduler.free_cpus, 3);
    }

    #[test]
    fn nobody_goes_ahead_while_another_input_is_missing() {
        let mut nodes = followed();
        nodes[2].needs.push(3);
        let mut scheduler = Scheduler::new(nodes, 4, 0, false);
        scheduler.begin();
        scheduler.handle(Happened::Done(0));
        assert_eq!(scheduler.handle(Happened::CanGoAhead(2, 1)), []);
        assert_eq!(scheduler.handle(Happened::Done(3)), [Do::GoAhead(2)]);
        // A worker that is ahead when the stage above fails keeps its tokens until it ends.
        assert_eq!(scheduler.handle(Happened::Failed(1)), [Do::Skip(2, Some(1))]);
        scheduler.handle(Happened::AheadEnded(2));
        assert_eq!(scheduler.free_cpus, 4);
    }

    #[test]
    fn a_stage_that_waits_lets_others_run_and_asks_again() {
        let mut scheduler = Scheduler::new(chain_and_side(), 1, 0, false);
        scheduler.begin();
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Start(1)]);
        assert_eq!(scheduler.handle(Happened::Waits(1)), [Do::Start(2)]);
        assert!(!scheduler.is_over());
        // The one it waited for died: it takes over when there is a token for it.
        assert_eq!(scheduler.handle(Happened::WantsOn(1)), []);
        assert_eq!(scheduler.handle(Happened::Done(2)), [Do::GoOn(1)]);
        assert_eq!(scheduler.handle(Happened::Done(1)), [Do::Start(3)]);
        // The one it waits for records the key: nothing was taken, nothing comes back.
        scheduler.handle(Happened::Waits(3));
        scheduler.handle(Happened::Done(3));
        assert!(scheduler.is_over());
        assert_eq!(scheduler.free_cpus, 1);
    }

    #[test]
    fn a_stage_that_waits_gives_up_when_everything_stops() {
        let mut scheduler = Scheduler::new(chain_and_side(), 2, 0, true);
        scheduler.begin();
        scheduler.handle(Happened::Done(0));
        scheduler.handle(Happened::Waits(1));
        assert_eq!(scheduler.handle(Happened::Failed(2)), [Do::Skip(3, None), Do::GiveUp(1)]);
        assert_eq!(scheduler.handle(Happened::WantsOn(1)), []);
        assert_eq!(scheduler.handle(Happened::Failed(1)), []);
        assert!(scheduler.is_over());
        assert_eq!(scheduler.free_cpus, 2);
    }

    #[test]
    fn helpers_make_room_for_a_stage_that_is_ready_and_for_one_that_goes_ahead() {
        let mut scheduler = Scheduler::new(followed(), 2, 0, false);
        scheduler.begin();
        scheduler.handle(Happened::Done(0));
        scheduler.handle(Happened::Done(3));
        assert_eq!(scheduler.handle(Happened::HasRoom(1, 9)), [Do::Help(1)]);
        assert_eq!(scheduler.handle(Happened::CanGoAhead(2, 2)), [Do::Release(1)]);
        // Told once; what it leaves is not given to another helper.
        assert_eq!(scheduler.handle(Happened::CanGoAhead(2, 3)), []);
        assert_eq!(scheduler.handle(Happened::HelperEnded(1)), [Do::GoAhead(2)]);
        scheduler.handle(Happened::CanGoAhead(2, 0));
        assert_eq!(scheduler.handle(Happened::AheadEnded(2)), [Do::Help(1)]);

        // 1 helps itself to all there is; then 2, which needs a GPU too, is ready: no helper has one, so none need leave.
        let node = |needs: &[usize], gpus| Node { needs: needs.to_vec(), gpus, cpus: 1, wanted: true, follows: None };
        let mut scheduler = Scheduler::new(vec![node(&[], 0), node(&[], 0), node(&[0], 1), node(&[], 1)], 4, 1, false);
        assert_eq!(scheduler.begin(), [Do::Start(0), Do::Start(1), Do::Start(3)]);
        assert_eq!(scheduler.handle(Happened::HasRoom(1, 9)), [Do::Help(1)]);
        assert_eq!(scheduler.handle(Happened::Done(0)), [Do::Help(1)]);
        assert_eq!(scheduler.handle(Happened::Done(3)), [Do::Start(2)]);
    }
}
