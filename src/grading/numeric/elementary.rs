//! Elementary functions that are asked for often with the same argument, and what they cost.

use super::complex::Complex;

/// A function of one complex number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grading) enum Elementary {
    Exp,
    /// The principal logarithm.
    Ln,
    Cos,
    Sin,
    /// Of real numbers only.
    Arctan,
    /// The number of modulus one in the same direction from zero.
    Direction,
    /// As [`Complex::root`].
    Root(u32),
    /// `e^(2 pi i x / n)`, for an integer `x`.
    Turn(i64),
}

impl Elementary {
    /// Steps, of the time that a product of two numbers takes.
    pub fn steps(self, argument: &Complex) -> u32 {
        match (self, argument.is_real()) {
            (Self::Root(2), true) => 8,
            (Self::Direction, _) => 25,
            (Self::Root(2), false) => 35,
            (Self::Exp, true) => 60,
            (Self::Ln | Self::Arctan, true) => 150,
            (Self::Exp | Self::Cos | Self::Sin | Self::Turn(_), _) => 180,
            (Self::Ln | Self::Arctan, false) => 320,
            (Self::Root(_), true) => 220,
            (Self::Root(_), false) => 520,
        }
    }

    /// `None` where the value is not defined, or cannot be told.
    pub fn apply(self, argument: &Complex) -> Option<Complex> {
        match self {
            Self::Exp => argument.exp(),
            Self::Ln => argument.ln(),
            Self::Cos => argument.cos_sin().map(|(cos, _)| cos),
            Self::Sin => argument.cos_sin().map(|(_, sin)| sin),
            Self::Arctan => argument.atan(),
            Self::Direction => argument.divided_by(&Complex::real(argument.modulus()?)),
            Self::Root(degree) => argument.root(degree),
            Self::Turn(whole) => Complex::on_circle(argument, whole),
        }
    }
}
