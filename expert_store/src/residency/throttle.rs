//! Prefetch that does not pay turns itself off.

/// What a used prefetch earns, against the one that a wasted one costs: with less than one used in four, the bytes
/// cost more than the stalls that they save.
const EARNED_BY_USE: u32 = 3;
/// What a prefetch costs that a demand had to wait behind.
const COST_OF_DELAY: u32 = 3;
/// Trust at the start, and the most that can be gained: bounds how long a change of luck goes unnoticed.
const CREDIT_START: u32 = 16;
const CREDIT_MAX: u32 = 48;
/// While off, one prefetch in as many hints tries whether things have changed.
const HINTS_PER_TRIAL: u32 = 16;

/// The account of past prefetches.
#[derive(Debug)]
pub(super) struct Throttle {
    credit: u32,
    hints_while_off: u32,
    trial: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            credit: CREDIT_START,
            hints_while_off: 0,
            trial: false,
        }
    }
}

impl Throttle {
    /// A prefetched object was used.
    pub(super) fn used(&mut self) {
        self.credit = (self.credit + EARNED_BY_USE).min(CREDIT_MAX);
    }

    /// A prefetched object left memory unused.
    pub(super) fn wasted(&mut self) {
        self.credit = self.credit.saturating_sub(1);
    }

    /// A prefetch that nobody has asked for ended while a demand waited.
    pub(super) fn delayed(&mut self) {
        self.credit = self.credit.saturating_sub(COST_OF_DELAY);
    }

    /// A hint came.
    pub(super) fn hinted(&mut self) {
        if self.credit == 0 {
            self.hints_while_off += 1;
            self.trial |= self.hints_while_off.is_multiple_of(HINTS_PER_TRIAL);
        }
    }

    /// Whether a prefetch may begin.
    pub(super) fn allows(&self) -> bool {
        self.credit > 0 || self.trial
    }

    /// A prefetch began.
    pub(super) fn began(&mut self) {
        if self.credit == 0 {
            self.trial = false;
        }
    }
}
