//! Keeping a request's guards until its response has been sent.

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Handed over at once. hyper takes a body as long as its buffer has room and drops it after the last piece: a large
/// answer in one piece would count as sent before its client has read any of it.
const PIECE_BYTES: usize = 16 << 10;

/// The response, with `guard` kept until its body has been handed over to the connection or was given up.
pub(crate) fn until_sent<G: Send + Unpin + 'static>(response: Response, guard: G) -> Response {
    response.map(|body| {
        Body::new(HeldBody {
            body,
            pending: Bytes::new(),
            _guard: guard,
        })
    })
}

struct HeldBody<G> {
    body: Body,
    /// Taken from `body`, not yet handed over.
    pending: Bytes,
    _guard: G,
}

impl<G: Unpin> HttpBody for HeldBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.pending.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.pending.len().min(PIECE_BYTES);
        let piece = self.pending.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, pending) = (self.body.size_hint(), self.pending.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + pending);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + pending);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_guard_outlives_all_but_the_last_piece() {
        let guard = Arc::new(());
        let text = "x".repeat(3 * PIECE_BYTES + 1);
        let response = until_sent(Response::new(Body::from(text.clone())), Arc::clone(&guard));
        let body = response.into_body();
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let mut pieces = body.into_data_stream();
        let mut received = Vec::new();
        while let Some(piece) = pieces.next().await {
            assert_eq!(Arc::strong_count(&guard), 2);
            received.extend_from_slice(&piece.unwrap());
            let left = (text.len() - received.len()) as u64;
            assert_eq!(HttpBody::size_hint(&pieces).exact(), Some(left));
            assert_eq!(HttpBody::is_end_stream(&pieces), left == 0);
        }
        assert_eq!(received, text.as_bytes());
        drop(pieces);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_lets_go() {
        let guard = Arc::new(());
        let response = until_sent(Response::new(Body::from("x")), Arc::clone(&guard));
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(response);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
