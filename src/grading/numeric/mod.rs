//! Numbers to some four hundred digits, for what is not rational.
//!
//! Two expressions that are short and differ in value differ early: there are at most `2^h` values of expressions that `h`
//! bits describe, so a pair of them that agrees for several times `h` bits by accident is not to be expected, and a
//! pair that is made to agree needs its small difference written down somewhere. Expressions are therefore refused when
//! their height, the bits of the rationals in them, is above [`MAX_HEIGHT`], and [`part::KEPT_BITS`] of the value are kept,
//! all of them proven right by error bounds.

pub(super) mod complex;
pub(super) mod elementary;
pub(super) mod part;
pub(super) mod real;

/// The most bits of rationals that an expression may have whose value is not rational.
pub(super) const MAX_HEIGHT: u64 = 420;
