//! Replies that come as they are made: server-sent events, each a reply of its own, and `[DONE]` at the end.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    super::{envelope::RequestId, error::ApiError},
    fields::StreamOptions,
    reply::{self, Head},
};
use crate::{completing::Streaming, engine::handle::Piece};

/// The last event.
const DONE: &str = "[DONE]";

/// What a stream is sent with.
pub struct Shape {
    pub head: Head,
    /// `object` of its events.
    pub object: &'static str,
    pub options: StreamOptions,
    /// A stream that takes longer ends with an error.
    pub limit: Duration,
    pub request_id: RequestId,
}

/// Streams choices: first those of `opening`, then what `choice` makes of each piece, which may be nothing.
pub fn respond(
    streaming: Streaming,
    shape: Shape,
    opening: Vec<Value>,
    choice: impl FnMut(Piece) -> Option<Value> + Send + 'static,
) -> Response {
    let opening = opening.into_iter().map(|choice| shape.event(vec![choice])).collect();
    let deadline = Instant::now() + shape.limit;
    let events = Events { streaming: Some(streaming), shape, ready: opening, choice: Box::new(choice), deadline };
    let stream = stream::unfold(events, |mut events| async {
        let text = events.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(text)), events))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

impl Shape {
    fn event(&self, choices: Vec<Value>) -> String {
        let mut event = self.head.json(self.object, choices);
        if self.options.include_usage {
            event["usage"] = Value::Null;
        }
        event.to_string()
    }
}

struct Events {
    /// `None` once it has ended.
    streaming: Option<Streaming>,
    shape: Shape,
    /// Events that wait to be sent.
    ready: VecDeque<String>,
    choice: Box<dyn FnMut(Piece) -> Option<Value> + Send>,
    deadline: Instant,
}

impl Events {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let streaming = self.streaming.as_mut()?;
            match timeout_at(self.deadline, streaming.next()).await {
                Ok(Ok(Some(piece))) => {
                    let choice = (self.choice)(piece);
                    self.ready.extend(choice.map(|choice| self.shape.event(vec![choice])));
                }
                Ok(Ok(None)) => self.end(),
                Ok(Err(error)) => self.fail(&error.into()),
                Err(_) => self.fail(&ApiError::timeout(self.shape.limit)),
            }
        }
    }

    fn end(&mut self) {
        let Some(streaming) = self.streaming.take() else { return };
        if self.shape.options.include_usage {
            let mut event = self.shape.head.json(self.shape.object, vec![]);
            event["usage"] = reply::usage(streaming.usage());
            self.ready.push_back(event.to_string());
        }
        self.ready.push_back(DONE.into());
    }

    /// Dropping the generation gives up its place.
    fn fail(&mut self, error: &ApiError) {
        self.streaming = None;
        let RequestId(id) = &self.shape.request_id;
        tracing::error!(request_id = id, code = error.code, cause = error.cause, "a stream was cut off");
        self.ready.extend([json!({"error": error.body(id)}).to_string(), DONE.into()]);
    }
}
