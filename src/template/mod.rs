//! Templates for text that machines read, and shell quoting.

mod quote;
mod render;

pub use quote::quote;
pub use render::{Scope, TemplateError, names, names_in_expression, render};
