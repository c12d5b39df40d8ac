//! What the simulation got to.

/// How often something happened, over all episodes: a simulation that never gets there shows nothing.
#[derive(Default, Debug)]
pub struct Reached {
    pub steps: u64,
    pub finished: u64,
    pub preempted: u64,
    pub preempted_in_prefill: u64,
    pub recomputed: u64,
    pub stalled: u64,
    pub aborted: u64,
    pub removed_waiting: u64,
    pub removed_idle: u64,
    pub removed_in_lane: u64,
    pub too_long: u64,
    pub queue_full: u64,
    pub packed: u64,
    pub both_out: u64,
    pub kv_changed: u64,
    pub kv_held_back: u64,
    /// Began with a prefix that was remembered; and after a preemption.
    pub found: u64,
    pub found_again: u64,
    /// Plans that took blocks which remembered something.
    pub forgotten: u64,
}

impl Reached {
    /// That everything the simulation is for happened, and often.
    pub fn check(&self) {
        assert!(self.steps >= 1_000_000, "{self:?}");
        let often = [
            self.finished,
            self.preempted,
            self.preempted_in_prefill,
            self.recomputed,
            self.stalled,
            self.aborted,
            self.removed_waiting,
            self.removed_idle,
            self.removed_in_lane,
            self.too_long,
            self.queue_full,
            self.packed,
            self.both_out,
            self.kv_changed,
            self.kv_held_back,
            self.found,
            self.found_again,
            self.forgotten,
        ];
        assert!(often.iter().all(|&times| times >= 1000), "{self:?}");
    }
}
