//! Step-by-step output of the demo: numbered steps with times and check marks; plain text where standard output is no terminal or `NO_COLOR` is set.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Instant;

use anyhow::Result;

/// A story told on standard output.
pub struct Story {
    began: Instant,
    step: u32,
    colour: bool,
}

impl Story {
    /// Begins with a title.
    pub fn begin(title: &str) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let story = Self { began: Instant::now(), step: 0, colour };
        println!("{}\n", story.paint("1", title));
        story
    }

    /// The next numbered step.
    pub fn step(&mut self, title: &str) {
        self.step += 1;
        let head = self.paint("1;36", &format!("{:>2}. {title}", self.step));
        println!("{head}  {}", self.paint("2", &format!("[{:.1} s]", self.seconds())));
    }

    /// A line under the step.
    pub fn say(&self, text: impl Display) {
        println!("    {text}");
    }

    /// Something that was checked and holds.
    pub fn good(&self, text: impl Display) {
        println!("    {} {text}", self.paint("32", if self.colour { "✓" } else { "ok" }));
    }

    /// Runs a check and tells how it went.
    pub fn check<T>(&self, what: &str, check: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = check();
        let took = self.paint("2", &format!("({} ms)", began.elapsed().as_millis()));
        match &result {
            Ok(_) => self.good(format!("{what} {took}")),
            Err(_) => println!("    {} {what} {took}", self.paint("31", if self.colour { "✗" } else { "FAILED" })),
        }
        result
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Text in bold where that is possible.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Text that draws attention to something wrong or lagging.
    pub fn warn(&self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
