//! What is to become of the logits of a row, and what became of them.

/// What is asked of the logits of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// The logits themselves: they are to be narrowed, changed or scored.
    Logits,
    /// Tokens drawn from all of them.
    Draws(Draws),
}

impl Wanted {
    /// How many draws are wanted of the row.
    pub fn draws(&self) -> usize {
        match self {
            Self::Logits => 0,
            Self::Draws(draws) => draws.uniforms.len(),
        }
    }
}

/// Draws from softmax(logits / temperature). A device that can make them itself copies a few numbers instead of a row
/// of the whole vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws {
    /// At 0 the likeliest token is taken.
    pub temperature: f32,
    /// A number in [0, 1) for each draw: the first token is drawn, in the order of the vocabulary, at which the running
    /// sum of the probabilities exceeds it.
    pub uniforms: Vec<f64>,
}

/// What came of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// All logits; also where draws were wanted, if the device leaves drawing to the caller.
    Logits(Vec<f32>),
    /// A token for each draw, with its log-probability at the temperature (at 1 for temperature 0).
    Drawn(Vec<(u32, f32)>),
}

impl Output {
    /// How many draws were made of the row.
    pub fn draws(&self) -> usize {
        match self {
            Self::Logits(_) => 0,
            Self::Drawn(drawn) => drawn.len(),
        }
    }
}
