//! Numbers to some four hundred digits, for what is not rational.
//!
//! Two expressions that are short and differ in value differ early: there are at most `2^h` values of expressions that `h`
//! bits describe, so a pair of them that agrees for several times `h` bits by accident is not to be expected, and a
//! pair that is made to agree needs its small difference written down somewhere. Expressions are therefore refused when
//! their height is above [`MAX_HEIGHT`], and [`part::KEPT_BITS`] of the value are kept, all of them proven right by error
//! bounds.
//!
//! The height is the bits of the rationals in an expression; those inside a function count twice more, and twice more
//! again inside each further one. For two functions of a small `x` may be the same up to `x^k`, and so agree in `k`
//! times the bits of `x`, which is written down once: `sinh(arctan x)` and `tanh(arcsin x)` first differ at `x^9`.
//! For each function that is composed, `k` grows by two or so (by no more than four up to compositions of three, of
//! which all were tried), and what is allowed to `x` shrinks: to 140 bits inside one function, 84 inside two, 60
//! inside three.

pub(super) mod complex;
pub(super) mod elementary;
pub(super) mod part;
pub(super) mod real;

/// The most bits of rationals that an expression may have whose value is not rational.
pub(super) const MAX_HEIGHT: u64 = 420;
