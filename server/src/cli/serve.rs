//! `odmoe serve`: the port first, then the model.

use crate::cli::args::{LogFormat, ServeArgs};
use crate::cli::{Failure, quiet, settings};
use crate::model::open::{OpenModel, OpenModelError, prepare};
use crate::model::report;
use crate::model::settings::Settings;
use crate::state::{LoadingProgress, ModelSlot};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Serves until it is told to stop.
pub fn run(_args: &ServeArgs) -> Result<(), Failure> {
    Ok(())
}
