//! The methods, by what they are about.

mod bdev;
mod controllers;
mod framework;
mod listeners;
mod log;
mod namespaces;
mod nvmf;
mod statistics;

use super::Method;

const ALL: &[&[Method]] = &[
    bdev::METHODS,
    framework::METHODS,
    log::METHODS,
    nvmf::METHODS,
    listeners::METHODS,
    namespaces::METHODS,
    controllers::METHODS,
    statistics::METHODS,
];

/// Every method.
pub fn all_methods() -> impl Iterator<Item = &'static Method> {
    ALL.iter().copied().flatten()
}

/// The method of a name or alias.
#[must_use]
pub fn find_method(name: &str) -> Option<&'static Method> {
    all_methods().find(|method| method.name == name || method.aliases.contains(&name))
}
