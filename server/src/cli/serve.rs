//! `odmoe serve`: the port first, then the model.

use crate::cli::args::{LogFormat, ServeArgs};
use crate::cli::progress::ConversionReporter;
use crate::cli::{Failure, access, settings, terminal};
use crate::http::{self, HttpConfig, Listeners, Timeouts, Tls, check_listen};
use crate::metrics::MetricsHandle;
use crate::model::open::{OpenModel, OpenModelError, prepare};
use crate::model::pressure;
use crate::model::report;
use crate::model::settings::Settings;
use crate::state::{LoadingProgress, ModelSlot};
use crate::traces::Traces;
use odmoe_engine::EngineHandle;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Threads for connections; computing has its own.
const RUNTIME_THREADS: usize = 2;
/// How often the engine's thread is looked after.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Followers of the loading progress get this long to hear that it failed.
const FAILURE_GRACE: Duration = Duration::from_millis(200);

/// Serves until it is told to stop.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    start_logging(args.log_format);
    let config = http_config(args)?;
    let wanted = SocketAddr::new(args.listen.host, args.listen.port);
    check_listen(wanted, &config, args.access.allow_unauthenticated)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let traces = config.traces.clone();
    let mut settings = settings::settings(&args.model, args.served_model_name.clone())?;
    settings.warm_start = !args.no_warm_start;
    let bound = Bound {
        tls: match (&args.listen.tls_cert, &args.listen.tls_key) {
            (Some(certificate), Some(key)) => Some(
                Tls::from_files(certificate, key)
                    .map_err(|error| Failure::Usage(error.to_string()))?,
            ),
            _ => None,
        },
        clients: bind(wanted, "--port")?,
        metrics: match args.listen.metrics_listen {
            Some(address) => Some(bind(address, "--metrics-listen")?),
            None => None,
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the server's threads: {error}")))?;
    let served = runtime.block_on(serve(bound, config, settings, !args.ignore_memory_pressure));
    // A conversion under way is left where it is: nothing of it opens as a store.
    runtime.shutdown_background();
    if let Some(traces) = traces {
        traces.shutdown();
    }
    served
}

/// Sockets that are listened on already.
struct Bound {
    clients: TcpListener,
    tls: Option<Tls>,
    metrics: Option<TcpListener>,
}

impl Bound {
    /// For the runtime that this is called in.
    fn listeners(self) -> io::Result<Listeners> {
        let metrics = self.metrics.map(tokio::net::TcpListener::from_std);
        Ok(Listeners {
            clients: tokio::net::TcpListener::from_std(self.clients)?,
            tls: self.tls,
            metrics: metrics.transpose()?,
        })
    }
}

async fn serve(
    bound: Bound,
    config: HttpConfig,
    settings: Settings,
    watch_pressure: bool,
) -> Result<(), Failure> {
    let listeners = bound.listeners().map_err(network_failed)?;
    let address = listeners.clients.local_addr().map_err(network_failed)?;
    let scheme = if listeners.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let base_url = base_url(scheme, address);
    say(&format!(
        "odmoe {} listens on {base_url}",
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(metrics) = &listeners.metrics {
        let address = metrics.local_addr().map_err(network_failed)?;
        say(&format!(
            "  metrics   on {}/metrics",
            self::base_url("http", address)
        ));
    }
    let (slot, metrics) = (ModelSlot::new(), MetricsHandle::new());
    let needs_key = !config.api_keys.is_empty();
    let opening = Opening {
        slot: slot.clone(),
        metrics: metrics.clone(),
        base_url,
        needs_key,
        watch_pressure,
    };
    let (sender, opened) = oneshot::channel();
    std::thread::Builder::new()
        .name("odmoe-open".to_owned())
        .spawn(move || drop(sender.send(opening.run(settings))))
        .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
    let mut model = None;
    tokio::select! {
        served = http::serve(listeners, config, slot, metrics) => served.map_err(network_failed)?,
        failure = look_after(opened, &mut model) => return Err(failure),
    }
    if let Some(mut model) = model {
        if let Some(usage) = model.usage.take() {
            usage.finish();
        }
        model.engine.stop();
    }
    Ok(())
}

/// Keeps the model, and ends when it cannot be served (any more).
async fn look_after(
    opened: oneshot::Receiver<Result<OpenModel, OpenModelError>>,
    model: &mut Option<OpenModel>,
) -> Failure {
    let opened = match opened.await {
        Ok(Ok(opened)) => model.insert(opened),
        Ok(Err(error)) => {
            tokio::time::sleep(FAILURE_GRACE).await;
            return Failure::failed(error);
        }
        Err(_) => {
            return Failure::Failed(
                "opening the model ended without a result; this is a bug".to_owned(),
            );
        }
    };
    until_dead(&opened.engine).await;
    Failure::Failed(
        "the engine stopped; see the log for the reason, and start the server again".to_owned(),
    )
}

async fn until_dead(engine: &EngineHandle) {
    while engine.is_alive() {
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// What the opening thread needs.
struct Opening {
    slot: ModelSlot,
    metrics: MetricsHandle,
    base_url: String,
    needs_key: bool,
    watch_pressure: bool,
}

impl Opening {
    fn run(self, settings: Settings) -> Result<OpenModel, OpenModelError> {
        let opened = self.open(settings);
        match &opened {
            Ok(model) => {
                let served = model.served();
                if let Some(budget) = served.budget.as_ref().filter(|_| self.watch_pressure) {
                    pressure::watch(budget);
                }
                let line = report::curl_line(
                    &self.base_url,
                    &served.name,
                    served.template.is_some(),
                    self.needs_key,
                );
                self.metrics.set_load_progress(1.0);
                self.slot.set_ready(Arc::new(served));
                tracing::info!(model = model.prepared.name(), "ready");
                say(&format!("ready; try it:\n  {line}"));
            }
            Err(error) => self.slot.set_failed(error.to_string()),
        }
        opened
    }

    fn open(&self, settings: Settings) -> Result<OpenModel, OpenModelError> {
        let told = |progress: LoadingProgress| {
            self.metrics.set_load_progress(progress.fraction);
            self.slot.set_progress(progress);
        };
        let reporter = ConversionReporter::new();
        let prepared = prepare(settings, &told, &reporter);
        reporter.finish();
        let prepared = prepared?;
        say(report::describe(&prepared).trim_end());
        let name = prepared.name().to_owned();
        self.metrics
            .set_cache_config(&name, &prepared.engine_config);
        prepared.start(self.metrics.model(&name), &told)
    }
}

fn http_config(args: &ServeArgs) -> Result<HttpConfig, Failure> {
    let mut config = HttpConfig {
        log_text: args.log_text,
        traces: match args.otlp_endpoint.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => Some(Traces::to(url).map_err(|error| Failure::Usage(error.to_string()))?),
            None => None,
        },
        keep_alive: args.time.keep_alive.0,
        drain_timeout: args.time.drain_timeout.0,
        timeouts: Timeouts {
            request: args.time.request_timeout.0,
            stream: args.time.stream_timeout.0,
            stall: args.time.stall_timeout.0,
        },
        ..HttpConfig::default()
    };
    access::apply(&args.access, &mut config)?;
    Ok(config)
}

/// `flag` names the port.
fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let (ip, port) = (address.ip(), address.port());
        Failure::Failed(match error.kind() {
            ErrorKind::AddrInUse => {
                format!("port {port} on {ip} is taken; choose another with {flag}, 0 takes any that is free")
            }
            ErrorKind::PermissionDenied => {
                format!("port {port} may not be listened on ({error}); choose one from 1024 on with {flag}")
            }
            _ => format!("cannot listen on {address} ({error}); choose another address with --host or {flag}"),
        })
    })
}

fn network_failed(error: io::Error) -> Failure {
    Failure::Failed(format!("the listening socket failed: {error}"))
}

/// Where this machine's clients reach the server.
fn base_url(scheme: &str, address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

/// A closed standard output does not stop a server.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("ODMOE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal::is_interactive());
    // A subscriber that is there already (in tests) stays.
    let _ = match format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_that_names_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let Err(Failure::Failed(message)) = bind(taken.local_addr().unwrap(), "--port") else {
            panic!("bound a taken port");
        };
        assert!(
            message.contains("--port") && message.contains("taken"),
            "{message}"
        );
    }

    #[test]
    fn the_url_is_one_that_a_client_here_can_reach() {
        for (address, url) in [
            ("0.0.0.0:8000", "http://127.0.0.1:8000"),
            ("[::]:1", "http://[::1]:1"),
            ("10.1.2.3:80", "http://10.1.2.3:80"),
        ] {
            assert_eq!(base_url("http", address.parse().unwrap()), url);
        }
    }
}
