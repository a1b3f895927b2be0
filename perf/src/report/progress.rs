//! A progress bar, where there is a terminal to show it on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error. Hidden if that is no terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `total` things of a kind ("requests"), or over bytes if the kind is "bytes".
    #[must_use]
    pub fn new(total: u64, kind: &str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let amount = if kind == "bytes" {
            "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}".to_owned()
        } else {
            format!("{{human_pos}}/{{human_len}} {kind}")
        };
        // The template is ours: if it were wrong, the default style would do.
        if let Ok(style) = ProgressStyle::with_template(&format!("{{bar:30}} {amount} {{elapsed}} {{msg}}")) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows how far things are.
    pub fn show(&self, done: u64, message: impl FnOnce() -> String) {
        self.bar.set_position(done);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
