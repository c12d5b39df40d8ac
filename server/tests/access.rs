//! Who may call, by the flags of `odmoe serve`: keys, the admin key, origins, hosts, TLS.

mod support;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::{Server, World};

/// Status, head and body of a request with these header lines.
fn call(server: &Server, path: &str, headers: &[&str]) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    ask(&mut stream, path, headers)
}

fn ask(stream: &mut (impl Read + Write), path: &str, headers: &[&str]) -> (u16, String) {
    let host = match headers.iter().any(|line| line.starts_with("Host:")) {
        true => "",
        false => "Host: localhost\r\n",
    };
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).expect("a status").parse().unwrap();
    (status, reply)
}

fn status(server: &Server, path: &str, headers: &[&str]) -> u16 {
    call(server, path, headers).0
}

#[test]
fn keys_come_from_flags_the_environment_and_a_file() {
    let world = World::new().with("ODMOE_API_KEY", "alices,bobs");
    let file = world.write("keys.toml", "[carol]\nkey = \"carols\"\n");
    let mut server = world.serve(&["--api-keys-file", file.to_str().unwrap()]);
    server.until_ready();
    for path in ["/health", "/ready"] {
        assert_eq!(status(&server, path, &[]), 200, "{path} is open");
    }
    for path in ["/v1/models", "/metrics", "/docs", "/nowhere"] {
        assert_eq!(status(&server, path, &[]), 401, "{path} is closed");
        assert_eq!(status(&server, path, &["X-Api-Key: alice"]), 401, "{path}");
    }
    for key in ["alices", "bobs", "carols"] {
        let bearer = format!("Authorization: Bearer {key}");
        assert_eq!(status(&server, "/v1/models", &[&bearer]), 200, "{key}");
    }
    // A key on the command line takes the place of those in the environment.
    let mut server = world.serve(&["--api-key", "daves"]);
    server.until_ready();
    assert_eq!(status(&server, "/v1/models", &["X-Api-Key: daves"]), 200);
    assert_eq!(status(&server, "/v1/models", &["X-Api-Key: alices"]), 401);
}

#[test]
fn the_admin_key_opens_admin_and_metrics_alone() {
    let world = World::new();
    let mut server = world.serve(&["--api-key", "callers", "--admin-key", "admins"]);
    server.until_ready();
    let with = |path: &str, key: &str| {
        let header = format!("X-Api-Key: {key}");
        status(&server, path, &[&header])
    };
    assert_eq!(with("/admin/cache", "admins"), 200);
    assert_eq!(with("/admin/cache", "callers"), 401);
    assert_eq!(with("/metrics", "admins"), 200);
    assert_eq!(with("/metrics", "callers"), 200);
    assert_eq!(with("/v1/models", "admins"), 401);
    let mut without = world.serve(&[]);
    without.until_ready();
    assert_eq!(
        status(&without, "/admin/cache", &["X-Api-Key: admins"]),
        404,
        "there is none without a key for it"
    );
}

#[test]
fn origins_and_hosts_are_refused_unless_they_are_named() {
    let world = World::new();
    let mut server = world.serve(&[
        "--cors-origin",
        "https://chat.example",
        "--allowed-hosts",
        "models.example",
    ]);
    server.until_ready();
    let (listed, reply) = call(&server, "/v1/models", &["Origin: https://chat.example"]);
    assert_eq!(listed, 200);
    let allowed = "access-control-allow-origin: https://chat.example";
    assert!(reply.to_ascii_lowercase().contains(allowed), "{reply}");
    assert_eq!(
        status(&server, "/v1/models", &["Origin: https://evil.example"]),
        403
    );
    assert_eq!(
        status(&server, "/v1/models", &["Host: models.example"]),
        200
    );
    assert_eq!(status(&server, "/v1/models", &["Host: evil.example"]), 403);
}

#[test]
fn metrics_can_have_an_address_of_their_own() {
    let world = World::new();
    let mut server = world.serve(&["--api-key", "callers", "--metrics-listen", "127.0.0.1:0"]);
    let printed = server.until_ready();
    let own = printed.split("metrics   on http://").nth(1);
    let own = own
        .and_then(|rest| rest.split('/').next())
        .expect("its address");
    let mut stream = TcpStream::connect(own).unwrap();
    let (scraped, reply) = ask(&mut stream, "/metrics", &[]);
    assert!(scraped == 200 && reply.contains("vllm:num_requests_running"));
    let mut stream = TcpStream::connect(own).unwrap();
    assert_eq!(ask(&mut stream, "/v1/models", &[]).0, 404);
    assert_eq!(status(&server, "/metrics", &["X-Api-Key: callers"]), 404);
}

#[test]
fn what_would_leave_the_server_open_or_broken_is_refused() {
    let world = World::new();
    let check = |arguments: &[&str], part: &str| {
        let arguments = [&["serve", "--port", "0"], arguments].concat();
        let error = world.refused(2, &arguments);
        assert!(error.contains(part), "{arguments:?}: {error} lacks {part}");
    };
    check(&["--host", "0.0.0.0"], "--allow-unauthenticated");
    check(&["--api-key", "a", "--api-key", "a"], "the same");
    check(&["--api-key", "a", "--admin-key", "a"], "admin key");
    check(&["--cors-origin", "*"], "--cors-origin");
    check(&["--tls-cert", "cert.pem"], "--tls-key");
    check(&["--api-keys-file", "/nowhere.toml"], "/nowhere.toml");
    check(&["--requests-per-minute", "0"], "--requests-per-minute");
    let secret = world.write("keys.toml", "[alice]\nkey = \"very-secret\"\ncolour = 1\n");
    let arguments = ["serve", "--api-keys-file", secret.to_str().unwrap()];
    let error = world.refused(2, &arguments);
    assert!(
        error.contains("keys.toml") && !error.contains("very-secret"),
        "{error}"
    );
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/http/tests/tls")
        .join(name)
}

/// `GET /health` by a client that trusts this certificate alone.
fn secure_health(server: &Server, trusted: &str) -> std::io::Result<u16> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(pem(trusted)).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(&server.address)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(ask(&mut stream, "/health", &[]).0)
}

#[test]
fn tls_is_spoken_by_flags_and_renewed_by_a_signal() {
    let world = World::new();
    let install = |which: &str| {
        for file in ["cert.pem", "key.pem"] {
            std::fs::copy(pem(&format!("{which}.{file}")), world.path(file)).unwrap();
        }
    };
    install("old");
    let [cert, key] = ["cert.pem", "key.pem"].map(|file| world.path(file));
    let mut server = world.serve(&[
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ]);
    server.until_ready();
    assert_eq!(secure_health(&server, "old.cert.pem").unwrap(), 200);
    assert!(secure_health(&server, "new.cert.pem").is_err());
    install("new");
    let id = server.id().to_string();
    let signal = Command::new("kill").args(["-HUP", &id]).status();
    assert!(signal.unwrap().success());
    // The signal is heard a moment later.
    while secure_health(&server, "new.cert.pem").is_err() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(secure_health(&server, "old.cert.pem").is_err());
    let wrong = world.write("wrong.pem", "no key");
    let arguments = [
        "serve",
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        wrong.to_str().unwrap(),
    ];
    let output = world.run(&arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("wrong.pem"),
        "{error}"
    );
}
