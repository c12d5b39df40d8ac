//! From serving over draining to stopping.

use std::sync::Arc;
use tokio::sync::watch;

/// Where in its life the server is. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LifePhase {
    /// Requests are taken.
    Serving,
    /// New requests are refused; accepted ones go on.
    Draining,
    /// Accepted ones end now, with an error.
    Stopping,
}

/// The phase and the number of requests that draining waits for. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Lifecycle {
    phase: Arc<watch::Sender<LifePhase>>,
    in_flight: Arc<watch::Sender<usize>>,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(LifePhase::Serving)),
            in_flight: Arc::new(watch::Sender::new(0)),
        }
    }

    pub(crate) fn phase(&self) -> LifePhase {
        *self.phase.borrow()
    }

    pub(crate) fn advance(&self, to: LifePhase) {
        self.phase.send_if_modified(|phase| {
            let forward = to > *phase;
            *phase = to.max(*phase);
            forward
        });
    }

    /// Ends once `phase` is reached.
    pub(crate) async fn reached(&self, phase: LifePhase) {
        let mut watch = self.phase.subscribe();
        // An error means that the sender is gone, which `self` prevents.
        let _ = watch.wait_for(|now| *now >= phase).await;
    }

    /// Counts a request until the guard is dropped; None when draining. Counting comes before looking, so that a drain
    /// that begins in between waits for this request.
    pub(crate) fn enter(&self) -> Option<InFlight> {
        self.in_flight.send_modify(|count| *count += 1);
        let guard = InFlight {
            count: Arc::clone(&self.in_flight),
        };
        (self.phase() == LifePhase::Serving).then_some(guard)
    }

    /// Requests that draining would wait for.
    pub(crate) fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Ends once no request is in flight.
    pub(crate) async fn is_idle(&self) {
        let mut watch = self.in_flight.subscribe();
        let _ = watch.wait_for(|count| *count == 0).await;
    }
}

/// One request that draining waits for.
pub(crate) struct InFlight {
    count: Arc<watch::Sender<usize>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
