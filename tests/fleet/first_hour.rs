//! What an operator does first: trust, look, apply; and again, with nothing left to do.

use crate::kit::{Setup, Site, fleet};

#[test]
fn one_host_is_observed_and_applied() {
    let hosts = fleet().boot([Setup::new("cp-1")]);
    let site = Site::new(&hosts);
    site.expect(2, &["plan"]);
    site.converge();
}
