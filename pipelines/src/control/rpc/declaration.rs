//! What a method is: declared once, used for checking, documentation and help.

use serde_json::Value;

use super::{Arguments, Fault};
use crate::control::Context;

/// When a method may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the framework is initialised.
    Startup,
    /// After the framework is initialised.
    Runtime,
    /// Always.
    Any,
}

impl Phase {
    /// Its name in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Runtime => "runtime",
            Self::Any => "any",
        }
    }
}

/// What a parameter can be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// Taken for the sake of SPDK's clients; only `false` is possible.
    AlwaysFalse,
    /// A whole number in a range, both ends included.
    Integer {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A number of bytes: a whole number, or text such as `"64M"` (powers of 1024).
    Bytes {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Text of a length in bytes up to the given one.
    Text(usize),
    /// One of some names, in any case.
    Choice(&'static [&'static str]),
    /// A list of texts, as many as given at most.
    Texts(usize),
    /// An object with parameters of its own.
    Group(&'static [Param]),
}

impl Kind {
    /// Its name in the schema.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Flag | Self::AlwaysFalse => "boolean",
            Self::Integer { .. } => "integer",
            Self::Bytes { .. } => "bytes",
            Self::Text(_) => "string",
            Self::Choice(_) => "enum",
            Self::Texts(_) => "list",
            Self::Group(_) => "object",
        }
    }
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
    /// What it is if it is not given, as JSON.
    pub default: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
}

impl Param {
    /// A parameter that must be given.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: true, default: None, doc }
    }

    /// A parameter that may be missing.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: false, default: None, doc }
    }

    /// The same parameter with what it is if it is missing, as JSON.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
}

/// What a method does.
#[derive(Clone, Copy)]
pub enum Action {
    /// Runs to its end on a control thread of its own, within a bounded time.
    Run(fn(&Context, &Arguments) -> Result<Value, Fault>),
    /// Waits for the framework to be initialised and answers `true`.
    WaitForInit,
}

/// A method.
#[derive(Clone, Copy)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Other names that it has.
    pub aliases: &'static [&'static str],
    /// When it may be called.
    pub phase: Phase,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
    /// What it answers.
    pub result: &'static str,
    /// The errors that are its own: code and meaning.
    pub errors: &'static [(i32, &'static str)],
    /// What it does.
    pub action: Action,
}
