//! Boxes that are a part of a formula: `-\boxed{5}`, `\boxed{5}^2`.

use super::{
    statement::is_prose,
    wording::{is_filler, words},
};
use crate::grading::vocabulary::Words;

/// Commands before and behind a box that set it, or relate it to another formula that it equals. All others make it a
/// part of theirs: `\times`, `\log`, `\le`, `\pi`.
const BYSTANDERS: Words = Words(
    "\\quad \\qquad \\implies \\Rightarrow \\Longrightarrow \\rightarrow \\longrightarrow \\to \\therefore \
     \\because \\iff \\Leftrightarrow \\equiv \\approx \\cong \\in \\text \\textbf \\textrm \\mathrm \\mathbf \
     \\mbox \\displaystyle \\large \\Large \\huge \\Huge \\bf \\item \\begin \\end \\hspace \\vspace \\newline \
     \\hfill \\tag \\pmod \\checkmark \\square \\blacksquare \\Box \\qed \\units \\degree \\right \\left \\bullet \
     \\colon \\boxed \\fbox \\and \\or",
);

const OPERATORS: [char; 9] = ['-', '+', '/', '^', '_', '\u{2212}', '\u{d7}', '\u{b1}', '\u{221a}'];

/// Whether boxes are a part of a formula, by what stands before and behind them.
pub(super) fn is_operand(before: &str, behind: &str) -> bool {
    continues(before)
        || is_continued(behind)
        || is_member(before, behind)
        || before.ends_with("}{")
        || behind.starts_with("}{")
}

/// Whether a box is one of several values: `\boxed{5}, 6`, `(6, \boxed{5})`.
fn is_member(before: &str, behind: &str) -> bool {
    let starts_number =
        |text: &str| text.trim_start_matches(['-', '\u{2212}']).starts_with(|c: char| c.is_ascii_digit());
    let next = behind.trim_start_matches([' ', '$']).strip_prefix([',', ';']);
    let line = before.rsplit('\n').next().unwrap_or_default();
    let open = line.rfind(['(', '[']).map(|at| &line[at + 1..]);
    let ends_list = |inner: &str| inner.contains(',') && !inner.contains([')', ']']) && !is_prose(inner);
    next.is_some_and(|next| starts_number(next.trim_start_matches(' '))) || open.is_some_and(ends_list)
}

/// Whether a text before a box makes it a part of a formula.
fn continues(before: &str) -> bool {
    // A dash at the beginning of a line is the mark of an item, and one before words is a dash.
    let line = before.rfind('\n').map_or(before, |at| &before[at + 1..]);
    let is_item = matches!(line.trim_end_matches(['$', '{']).trim_start(), "- " | "+ " | "* ");
    let is_item = is_item || line.trim_end_matches(['$', '{', ' ']).strip_suffix('-').is_some_and(is_title);
    // Stars without spaces are marks of bold.
    let is_times = before.ends_with(" * ");
    let near = before.trim_end_matches([' ', '$', '{']);
    let command = last_command(near).or_else(|| last_command(before.trim_end()));
    let is_prefixed = command.is_some_and(|command| !BYSTANDERS.have(command));
    let is_compared = near.ends_with(['<', '\u{2264}', '\u{2265}']) || near.ends_with('>') && is_greater(near, line);
    // `2\boxed{5}`, `0.\boxed{5}`, `(x + 1)\boxed{5}`, `x\boxed{5}`.
    let digits = before.strip_suffix('.').unwrap_or(before);
    let is_adjacent = digits.ends_with(|c: char| c.is_ascii_digit())
        || before.ends_with([')', ']']) && !before.ends_with("\\)") && !before.ends_with("\\]");
    !is_item && (is_times || near.ends_with(OPERATORS))
        || is_prefixed
        || is_compared
        || is_adjacent
        || ends_in_letter(before)
}

/// Whether a text only says that a result follows: `Result`, `Final answer`.
fn is_title(text: &str) -> bool {
    text.ends_with(' ')
        && text.chars().all(|c| c.is_alphabetic() || " *".contains(c))
        && words(text).all(|word| word.len() > 1 && is_filler(word))
        && !text.trim().is_empty()
}

/// Whether the `>` at the end of a text is a sign, and no quotation, arrow or tag.
fn is_greater(near: &str, line: &str) -> bool {
    let text = &near[..near.len() - 1];
    let is_tag = text.rfind('<').is_some_and(|at| !text[at..].contains(' '));
    !(text.ends_with(['-', '=']) || is_tag || line.trim().trim_end_matches(['$', '>', ' ']).is_empty())
}

/// The command that a text ends in.
fn last_command(text: &str) -> Option<&str> {
    let name = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let start = name.checked_sub(1)?;
    (name < text.len() && text[..name].ends_with('\\') && !text[..start].ends_with('\\')).then(|| &text[start..])
}

/// The command that a text begins with.
fn first_command(text: &str) -> Option<&str> {
    let name = text.strip_prefix('\\')?;
    let length = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    (length > 0).then(|| &text[..=length])
}

/// Whether a text ends in a single letter, as in `x\boxed{5}`.
fn ends_in_letter(text: &str) -> bool {
    let mut last = text.chars().rev();
    last.next().is_some_and(|c| c.is_ascii_alphabetic())
        && last.next().is_none_or(|c| !c.is_alphanumeric() && c != '\\' && c != '\'')
}

/// Whether a text behind a box makes it a part of a formula.
fn is_continued(behind: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let near = behind.trim_start_matches([' ', '$', '}']);
    if ["^\\circ", "^{\\circ}"].iter().any(|degrees| near.starts_with(degrees)) {
        return false;
    }
    let command = first_command(near).or_else(|| first_command(behind.trim_start()));
    let is_suffixed = command.is_some_and(|command| !BYSTANDERS.have(command));
    let is_dash = near.strip_prefix("- ").is_some_and(|rest| rest.starts_with(is_letter));
    // `<b>` and `</b>` are tags.
    let is_compared = near.starts_with(['>', '\u{2264}', '\u{2265}'])
        || near.strip_prefix('<').is_some_and(|rest| !rest.starts_with(['/', '|']) && !is_tag(rest));
    // `\boxed{5}x`, where a unit has more letters, and `\boxed{5}.5`.
    let is_adjacent = behind.starts_with(is_letter) && !behind[1..].starts_with(is_letter)
        || behind.starts_with('(')
        || behind.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || behind.starts_with(|c: char| c.is_ascii_digit());
    // In a formula `!` is a factorial, and at the end of a sentence it is none.
    let is_factorial = ["!$", "!\\)", "!\\]"].iter().any(|mark| behind.starts_with(mark));
    // `\boxed{5} x 10^3`
    let is_times = near.strip_prefix("x ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    !is_dash && near.starts_with(OPERATORS) || is_times || is_suffixed || is_compared || is_adjacent || is_factorial
}

/// Whether what stands behind `<` is the name of a tag and its end.
fn is_tag(rest: &str) -> bool {
    let name = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    name > 0 && rest[name..].trim_start_matches([' ', '/']).starts_with('>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_functions_and_factors_make_a_box_a_part_of_a_formula() {
        for (before, behind) in [
            ("", "\\pi"),
            ("\\pi", ""),
            ("x", ""),
            ("", "(x+1)"),
            ("(x+1)", ""),
            ("0.", ""),
            ("", ".5"),
            ("$", "!$"),
            ("\\log ", ""),
            ("x > ", ""),
            ("x \\le ", ""),
            ("", " < x"),
            ("", "<x"),
        ] {
            assert!(is_operand(before, behind), "{before:?} {behind:?}");
        }
    }

    #[test]
    fn arrows_tags_spaces_and_degrees_leave_a_box_alone() {
        for (before, behind) in [
            ("\\implies ", "\\quad"),
            ("x -> ", ""),
            ("> ", ""),
            ("<b>", "</b>"),
            ("= ", "<br>"),
            ("is\\\\", "\\\\"),
            ("\\(", "\\)"),
            ("$$ x = ", "^\\circ$$"),
            ("$", "^{\\circ}$"),
            ("", "!"),
            ("", "\\,\\text{cm}"),
            ("there is a ", " (in total)"),
            ("Result - ", ""),
            ("**Final answer** - $", "$"),
        ] {
            assert!(!is_operand(before, behind), "{before:?} {behind:?}");
        }
    }
}
