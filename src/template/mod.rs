//! Templates for whatever a machine reads, and quoting for the shell.

mod quote;
mod render;

pub use quote::quote;
pub use render::{Scope, TemplateError, render};
