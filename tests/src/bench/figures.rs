//! Figures over several rounds, goals, and how they are printed.

use std::fmt;

use baton_testbed::Story;

/// The values of one figure, one a round or one an event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    /// Adds a round's value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The value in the middle; NaN without any.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which that share of all lies.
    pub(crate) fn quantile(&self, at: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        // Sorted only when asked: there may be millions.
        let mut all = self.0.clone();
        let nth = ((all.len() - 1) as f64 * at).round() as usize;
        *all.select_nth_unstable_by(nth, f64::total_cmp).1
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// `median (min-max)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (self.quantile(0.0), self.quantile(1.0));
        let digits = match self.median() {
            m if m >= 100.0 => 0,
            m if m >= 10.0 => 1,
            _ => 2,
        };
        let text = format!("{:.digits$} ({low:.digits$}-{high:.digits$})", self.median());
        f.pad(&text)
    }
}

/// Something that must hold.
pub(crate) struct Goal {
    /// What is judged.
    pub(crate) what: String,
    /// The figure.
    pub(crate) value: f64,
    /// The bound.
    pub(crate) bound: f64,
    /// Whether the figure must lie at or below the bound, or at or above it.
    pub(crate) below: bool,
    /// Its unit.
    pub(crate) unit: &'static str,
}

impl Goal {
    /// At most `bound`.
    pub(crate) fn at_most(what: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, bound, below: true, unit }
    }

    /// At least `bound`.
    pub(crate) fn at_least(what: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, bound, below: false, unit }
    }

    fn is_met(&self) -> bool {
        if self.below { self.value <= self.bound } else { self.value >= self.bound }
    }
}

/// Prints the goals; says whether all are met.
pub(crate) fn judge(story: &Story, goals: &[Goal]) -> bool {
    for goal in goals {
        let sign = if goal.below { "<=" } else { ">=" };
        let line = format!("{:<52} {:>7.2} {:<2} {sign} {:.2}", goal.what, goal.value, goal.unit, goal.bound);
        if goal.is_met() {
            story.say(format!("pass  {line}"));
        } else {
            story.say(story.warn(&format!("MISS  {line}")));
        }
    }
    goals.iter().all(Goal::is_met)
}
