//! The one error shape.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every error body, and the payload of an error inside a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ErrorResponse {
    /// The error.
    pub error: ErrorBody,
}

/// All four keys are always there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What happened and what to do about it.
    pub message: String,
    /// The class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: ErrorType,
    /// The request field at fault.
    pub param: Option<String>,
    /// The case, such as `context_length_exceeded`.
    pub code: Option<String>,
}

/// Classes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// The request is at fault; the same again fails again.
    InvalidRequestError,
    /// Too much at once; later it may work.
    RateLimitError,
    /// The server is at fault or not ready.
    ServerError,
}
