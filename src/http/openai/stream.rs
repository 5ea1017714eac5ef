//! Replies that come as they are made: server-sent events, each a reply of its own, and `[DONE]` at the end.
//!
//! A task of its own makes the events and keeps the call's place, so that a client that does not read cannot keep
//! them beyond the request's deadline.

use std::convert::Infallible;

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{self, OwnedPermit, Sender},
    time::sleep_until,
};
use tracing::Instrument;

use super::{
    super::{envelope::Envelope, error::ApiError},
    fields::StreamOptions,
    reply::{self, Head},
};
use crate::{
    completing::{CompletingError, Streaming},
    engine::{handle::Piece, report::MAX_UNREAD_PIECES},
};

/// The last event.
const DONE: &str = "[DONE]";

/// Events that wait to be sent, besides what the connection holds itself: enough that the task and the connection need
/// not take turns. One place is kept for how the stream ends.
const MAX_READY_EVENTS: usize = 16;

/// Data of events that are sent one after the other.
type Events = Vec<String>;

/// What a stream is sent with.
pub struct Shape {
    pub head: Head,
    /// `object` of its events.
    pub object: &'static str,
    pub options: StreamOptions,
    /// A stream that is not sent by its deadline ends with an error.
    pub envelope: Envelope,
}

/// Streams choices: first those of `opening`, then what `choice` makes of each piece, which may be nothing.
pub fn respond(
    streaming: Streaming,
    shape: Shape,
    opening: Vec<Value>,
    choice: impl FnMut(Piece) -> Option<Value> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(MAX_READY_EVENTS);
    tokio::spawn(send(streaming, shape, opening, choice, sender).in_current_span());
    let groups = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let events = groups.flat_map(|events: Events| stream::iter(events));
    let events = events.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// Sends a stream to its end, its deadline, or until nobody listens. What it holds is given up then.
async fn send(
    mut streaming: Streaming,
    shape: Shape,
    opening: Vec<Value>,
    choice: impl FnMut(Piece) -> Option<Value> + Send,
    events: Sender<Events>,
) {
    let Ok(last) = events.clone().reserve_owned().await else { return };
    let overrun = streaming.overrun();
    let deadline = shape.envelope.deadline;
    let failed = tokio::select! {
        biased;
        () = events.closed() => return,
        () = overrun.cancelled() => Some(ApiError::unread(MAX_UNREAD_PIECES)),
        () = sleep_until(deadline) => Some(ApiError::timeout(shape.envelope.limit)),
        sent = shape.send_pieces(&mut streaming, opening, choice, &events) => sent.err().map(ApiError::from),
    };
    shape.end(&streaming, failed, last);
}

impl Shape {
    async fn send_pieces(
        &self,
        streaming: &mut Streaming,
        opening: Vec<Value>,
        mut choice: impl FnMut(Piece) -> Option<Value>,
        events: &Sender<Events>,
    ) -> Result<(), CompletingError> {
        // Nobody may be listening any more, which ends this soon.
        let _ = events.send(opening.into_iter().map(|choice| self.event(vec![choice])).collect()).await;
        while let Some(piece) = streaming.next().await? {
            if let Some(choice) = choice(piece) {
                let _ = events.send(vec![self.event(vec![choice])]).await;
            }
        }
        Ok(())
    }

    fn event(&self, choices: Vec<Value>) -> String {
        let mut event = self.head.json(self.object, choices);
        if self.options.include_usage {
            event["usage"] = Value::Null;
        }
        event.to_string()
    }

    /// Says how the stream ended.
    fn end(&self, streaming: &Streaming, failed: Option<ApiError>, last: OwnedPermit<Events>) {
        let mut events = Events::new();
        match failed {
            Some(error) => {
                let Envelope { id, .. } = &self.envelope;
                tracing::error!(id, code = error.code, cause = error.cause, "a stream was cut off");
                events.push(json!({"error": error.body(id)}).to_string());
            }
            None if self.options.include_usage => {
                let mut event = self.head.json(self.object, vec![]);
                event["usage"] = reply::usage(streaming.usage());
                events.push(event.to_string());
            }
            None => {}
        }
        events.push(DONE.into());
        last.send(events);
    }
}
