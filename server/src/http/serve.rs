//! Listening, draining, stopping.

use super::HttpConfig;
use super::app::App;
use super::connections::Connections;
use super::lifecycle::LifePhase;
use super::router::router;
use crate::metrics::{MetricsHandle, UPKEEP_INTERVAL};
use crate::state::ModelSlot;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Serves until SIGTERM or ctrl-c, then drains: `/ready` and new completions say 503 while accepted ones end, at most
/// [`HttpConfig::drain_timeout`]; what is left then ends with an error. A second signal ends at once.
///
/// The listener may accept before the model is loaded; until it appears in `slot`, completions say 503.
pub async fn serve(
    listener: TcpListener,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, stops) = mpsc::channel(2);
    let watch = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                break;
            }
        }
    });
    let served = serve_until(listener, config, slot, metrics, stops).await;
    watch.abort();
    served
}

/// As [`serve`], with messages of `stops` in place of signals. The sender must live as long as the server should.
pub async fn serve_until(
    listener: TcpListener,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
    mut stops: mpsc::Receiver<()>,
) -> io::Result<()> {
    let on_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let drain_timeout = config.drain_timeout;
    let app = Arc::new(App::new(config, slot, metrics.clone(), on_loopback));
    let upkeep = AbortOnDrop(tokio::spawn(keep_up(metrics)));
    let connections = Connections::new(&app);
    let accepting = connections.accept(&listener, router(Arc::clone(&app)));
    tokio::pin!(accepting);
    tokio::select! {
        () = &mut accepting => unreachable!("accepting never ends"),
        _ = stops.recv() => {}
    }
    tracing::info!("draining: new completions are refused, accepted ones go on");
    app.lifecycle.advance(LifePhase::Draining);
    // Accepting goes on, so that probes and late clients are told.
    let is_forced = tokio::select! {
        () = &mut accepting => unreachable!("accepting never ends"),
        () = app.lifecycle.is_idle() => false,
        () = tokio::time::sleep(drain_timeout) => false,
        _ = stops.recv() => true,
    };
    app.lifecycle.advance(LifePhase::Stopping);
    if !is_forced {
        connections.close().await;
    }
    drop(upkeep);
    Ok(())
}

async fn keep_up(metrics: MetricsHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
