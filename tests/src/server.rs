//! A server process with folders of its own.

use crate::client::Client;
use crate::engine::FORCED_KERNELS;
use crate::process::{terminate, wait_for_exit};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a server may take to answer `/ready` with 200. Debug builds on busy machines are slow.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to end.
const EXIT_LIMIT: Duration = Duration::from_secs(60);

/// Lines of a server's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 30;

/// How to start a server. The default is what `odmoe serve` does without arguments, on a free port and with a cache
/// folder of its own.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Arguments after `serve --port PORT`.
    pub arguments: Vec<String>,
    /// Variables on top of an environment that holds nothing but PATH, the folders and `ODMOE_CPU`.
    pub environment: Vec<(String, String)>,
    /// The working folder.
    pub working_folder: Option<PathBuf>,
    /// The home folder, in place of a fresh one.
    pub home: Option<PathBuf>,
    /// The binary, in place of the one under test.
    pub binary: Option<PathBuf>,
    /// A shell line that the process runs before it becomes the server: a limit, a cgroup.
    pub prelude: Option<String>,
    /// The port, in place of a free one.
    pub port: Option<u16>,
}

impl ServerOptions {
    /// With these arguments.
    pub fn with<const N: usize>(arguments: [&str; N]) -> Self {
        Self {
            arguments: arguments.map(str::to_string).to_vec(),
            ..Self::default()
        }
    }
}

/// A running server. Dropping it kills it.
pub struct Server {
    /// The process.
    pub child: Child,
    /// Speaks to it.
    pub client: Client,
    /// Where it listens.
    pub port: u16,
    log: Arc<Mutex<String>>,
    home: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server and waits until it is ready.
    #[track_caller]
    pub fn start(options: &ServerOptions) -> Self {
        let mut server = Self::spawn(options);
        server.wait_until_ready();
        server
    }

    /// Starts a server and waits for nothing.
    #[track_caller]
    pub fn spawn(options: &ServerOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = options
            .home
            .clone()
            .unwrap_or_else(|| folder.path().join("home"));
        let port = options.port.unwrap_or_else(free_port);
        if options.home.is_none() {
            std::fs::create_dir(&home).expect("a home folder");
        }
        let mut child = command(options, &home, port)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), log.clone());
        collect(child.stderr.take().expect("piped"), log.clone());
        Self {
            child,
            client: Client::new(port),
            port,
            log,
            home,
            _folder: folder,
        }
    }

    /// Waits for a 200 from `/ready`.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let start = Instant::now();
        while self
            .client
            .try_get("/ready")
            .is_none_or(|reply| reply.status != 200)
        {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the process can be waited for")
            {
                // What it wrote last is still on its way through the pipes.
                std::thread::sleep(Duration::from_millis(100));
                panic!(
                    "the server ended with {status} before it was ready:\n{}",
                    self.log()
                );
            }
            assert!(
                start.elapsed() < READY_LIMIT,
                "not ready within {READY_LIMIT:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has written so far, both streams.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Its home folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        terminate(&self.child);
        wait_for_exit(&mut self.child, EXIT_LIMIT)
    }

    /// Waits for an end that comes by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child, EXIT_LIMIT)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- end of the log of the server on port {} ---", self.port);
            eprintln!("{}", last.join("\n"));
        }
    }
}

fn command(options: &ServerOptions, home: &Path, port: u16) -> Command {
    let binary = options
        .binary
        .clone()
        .unwrap_or_else(|| crate::binary::odmoe_binary().to_path_buf());
    let mut command = match &options.prelude {
        None => Command::new(binary),
        Some(line) => {
            let mut shell = Command::new("sh");
            shell
                .args(["-ec", &format!("{line}; exec \"$0\" \"$@\"")])
                .arg(binary);
            shell
        }
    };
    command.env_clear();
    for name in ["PATH", "LLVM_PROFILE_FILE", FORCED_KERNELS] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"));
    command.envs(
        options
            .environment
            .iter()
            .map(|(name, value)| (name, value)),
    );
    command.current_dir(options.working_folder.as_deref().unwrap_or(Path::new("/")));
    command
        .args(["serve", "--port", &port.to_string()])
        .args(&options.arguments);
    command
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

fn collect(stream: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|bytes| bytes > 0)
        {
            log.lock()
                .expect("the log")
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
