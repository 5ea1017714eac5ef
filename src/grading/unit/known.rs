//! The units that are known, with their prefixes.

use std::{collections::HashMap, sync::OnceLock};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::pow::Pow as _;

use super::singular;

/// A unit that is known, as so many times a base unit.
struct Known {
    /// Its signs; those of one letter only where they are set as text.
    symbols: &'static [&'static str],
    /// Its names in the singular, in lower case.
    names: &'static [&'static str],
    base: &'static str,
    factor: (i64, i64),
    /// Whether it may have a prefix such as kilo.
    metric: bool,
}

type Spellings = &'static [&'static str];

const fn metric(symbols: Spellings, names: Spellings, base: &'static str) -> Known {
    Known { symbols, names, base, factor: (1, 1), metric: true }
}

const fn plain(symbols: Spellings, names: Spellings, base: &'static str, over: i64, under: i64) -> Known {
    Known { symbols, names, base, factor: (over, under), metric: false }
}

static UNITS: [Known; 59] = [
    metric(&["m"], &["meter", "metre"], "m"),
    metric(&["g"], &["gram"], "g"),
    metric(&["s"], &["second", "sec"], "s"),
    metric(&["L", "l"], &["liter", "litre"], "L"),
    metric(&["N"], &["newton"], "N"),
    metric(&["J"], &["joule"], "J"),
    metric(&["W"], &["watt"], "W"),
    Known { factor: (3600, 1), ..metric(&["Wh"], &["watthour"], "J") },
    metric(&["V"], &["volt"], "V"),
    metric(&["A"], &["ampere", "amp"], "A"),
    metric(&["Hz"], &["hertz"], "Hz"),
    metric(&["Pa"], &["pascal"], "Pa"),
    metric(&["K"], &["kelvin"], "K"),
    metric(&["mol"], &["mole"], "mol"),
    metric(&["eV"], &["electronvolt"], "eV"),
    metric(&["Omega"], &["ohm"], "ohm"),
    metric(&["cal"], &["calorie"], "cal"),
    metric(&["B"], &["byte"], "byte"),
    metric(&["b"], &["bit"], "bit"),
    plain(&[], &["coulomb"], "coulomb", 1, 1),
    plain(&[], &["tonne"], "g", 1_000_000, 1),
    plain(&[], &["kilo"], "g", 1000, 1),
    plain(&["ha"], &["hectare"], "hectare", 1, 1),
    plain(&[], &["in", "inch"], "m", 254, 10_000),
    plain(&[], &["ft", "foot", "feet"], "m", 3048, 10_000),
    plain(&[], &["yd", "yard"], "m", 9144, 10_000),
    plain(&[], &["mi", "mile"], "m", 1_609_344, 1000),
    plain(&[], &["lb", "pound"], "lb", 1, 1),
    plain(&[], &["oz", "ounce"], "oz", 1, 1),
    // Of two thousand pounds, or of more.
    plain(&[], &["ton"], "ton", 1, 1),
    plain(&[], &["min", "minute"], "s", 60, 1),
    plain(&["h"], &["hr", "hour"], "s", 3600, 1),
    plain(&[], &["day"], "s", 86_400, 1),
    plain(&[], &["week"], "s", 604_800, 1),
    plain(&[], &["month"], "month", 1, 1),
    plain(&[], &["yr", "year"], "month", 12, 1),
    plain(&[], &["gal", "gallon"], "gallon", 1, 1),
    plain(&[], &["quart"], "quart", 1, 1),
    plain(&[], &["pint"], "pint", 1, 1),
    plain(&[], &["cup"], "cup", 1, 1),
    plain(&[], &["tablespoon"], "tablespoon", 1, 1),
    plain(&[], &["teaspoon"], "teaspoon", 1, 1),
    plain(&["\u{b0}"], &["degree", "deg"], "degree", 1, 1),
    plain(&["degree C"], &["celsius"], "degree C", 1, 1),
    plain(&["degree F"], &["fahrenheit"], "degree F", 1, 1),
    plain(&[], &["rad", "radian"], "radian", 1, 1),
    plain(&["$", "US"], &["dollar", "usd", "buck"], "dollar", 1, 1),
    plain(&["\u{a2}"], &["cent"], "dollar", 1, 100),
    plain(&["\u{20ac}"], &["euro", "eur"], "euro", 1, 1),
    plain(&["\u{a3}"], &["gbp"], "pound sterling", 1, 1),
    plain(&["\u{a5}"], &["yen", "jpy"], "yen", 1, 1),
    plain(&[], &["yuan", "rmb", "cny"], "yuan", 1, 1),
    plain(&["\u{20b9}"], &["rupee", "inr"], "rupee", 1, 1),
    plain(&[], &["acre"], "acre", 1, 1),
    plain(&[], &["unit"], "unit", 1, 1),
    plain(&[], &["person", "people"], "person", 1, 1),
    plain(&[], &["child", "children"], "child", 1, 1),
    plain(&[], &["man", "men"], "man", 1, 1),
    plain(&[], &["woman", "women"], "woman", 1, 1),
];

/// Symbols of prefixes, their names, and the power of ten that they are.
const PREFIXES: [(&[&str], &str, i32); 7] = [
    (&["k", "K"], "kilo", 3),
    (&["M"], "mega", 6),
    (&["G"], "giga", 9),
    (&["d"], "deci", -1),
    (&["c"], "centi", -2),
    (&["m"], "milli", -3),
    (&["\u{b5}", "u"], "micro", -6),
];

/// Base units that are a power of another one: a litre is a thousandth of a cubic metre.
struct Power {
    base: &'static str,
    of: &'static str,
    exponent: i32,
    factor: (i64, i64),
}

const POWERS: [Power; 2] = [
    Power { base: "L", of: "m", exponent: 3, factor: (1, 1000) },
    Power { base: "hectare", of: "m", exponent: 2, factor: (10_000, 1) },
];

/// The base unit that a unit is a power of, which power, and how many of it.
pub(super) fn power_of(base: &'static str) -> (&'static str, i32, BigRational) {
    match POWERS.iter().find(|power| power.base == base) {
        Some(power) => (power.of, power.exponent, rational(power.factor)),
        None => (base, 1, rational((1, 1))),
    }
}

fn rational((over, under): (i64, i64)) -> BigRational {
    BigRational::new(over.into(), under.into())
}

impl Known {
    /// Whether it may have the prefix for a power of ten: `dV` is no tenth of a volt.
    fn takes(&self, power: i32) -> bool {
        self.metric && (!matches!(power, -1 | -2) || matches!(self.base, "m" | "g" | "L"))
    }

    fn times_ten_to(&self, power: i32) -> (&'static str, BigRational) {
        (self.base, rational(self.factor) * BigRational::from_integer(BigInt::from(10)).pow(power))
    }
}

/// Base units with factors, by symbols and by names in lower case, with and without prefixes. They are looked up for every
/// word of a formula.
#[derive(Default)]
struct Table {
    symbols: HashMap<String, (&'static str, BigRational)>,
    names: HashMap<String, (&'static str, BigRational)>,
}

impl Table {
    /// With units behind a prefix; what is there already stays.
    fn add(&mut self, units: impl Iterator<Item = &'static Known>, prefixes: (&[&str], &str), power: i32) {
        for unit in units {
            let value = unit.times_ten_to(power);
            for symbol in
                prefixes.0.iter().flat_map(|prefix| unit.symbols.iter().map(move |own| format!("{prefix}{own}")))
            {
                self.symbols.entry(symbol).or_insert_with(|| value.clone());
            }
            for name in unit.names {
                self.names.entry(format!("{}{name}", prefixes.1)).or_insert_with(|| value.clone());
            }
        }
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::default();
        table.add(UNITS.iter(), (&[""], ""), 0);
        for (symbols, name, power) in PREFIXES {
            table.add(UNITS.iter().filter(|unit| unit.takes(power)), (symbols, name), power);
        }
        table
    })
}

/// The base unit of a word and its factor. Symbols have their case, names have none; plurals are the singular.
pub(super) fn known(word: &str) -> Option<(&'static str, BigRational)> {
    let symbol = singular(word);
    let table = table();
    table.symbols.get(&symbol).or_else(|| table.names.get(&symbol.to_lowercase())).cloned()
}
