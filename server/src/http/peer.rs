//! Peers that go away without a word, or stop reading.

use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Probes of a silent connection before it is given up.
const PROBES: u32 = 3;

/// Has the kernel end a connection whose peer has not answered for `patience`: while nothing is sent, by keep-alive
/// probes; on Linux also while the peer takes nothing of what is sent. An ended connection cancels its request.
pub(crate) fn give_up_after(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let second = Duration::from_secs(1);
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, (patience / 2).max(second))?;
    sockopt::set_tcp_keepintvl(&socket, (patience / 2 / PROBES).max(second))?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&socket, milliseconds.max(1))?;
    }
    Ok(())
}
