//! Networks between hosts on the lab: EFA by its installer, InfiniBand by the kernel's modules, and links that are not well.

use crate::accelerators::{H100, Twin, site};

const TRN2: &str = r#"  trn2:
    role: worker
    accelerator: {neuron: {product: trainium2, count: 16, sdk: "2.32.0"}}
    efa: {count: 16}
    disruption: {maxFailed: 20, maxUnavailable: 20}
    hosts: {"t-[1-3]": {address: "10.1.2.[1-3]"}}
"#;

/// Each host says what is wrong with its own links, before or after its driver came; the others converge, and stay so.
#[test]
fn links_are_driven_and_up_before_a_node_joins() {
    let twin = Twin::new(&site(&format!(
        "{H100}    rdma: {{count: 8}}\n    hosts: {{\"h-[1-3]\": {{address: \"10.1.1.[1-3]\"}}}}\n{TRN2}"
    )));
    twin.up(&["h-2=link-down", "h-3=nic-missing", "t-2=link-down", "t-3=nic-missing"]);
    let (code, plan) = twin.on(&["plan"], &["--limit", "t-1,t-3,h-3"]);
    assert_eq!(code, 1, "{plan}");
    for expected in [
        "t-3 failed preflight [E-EFA-COUNT]: 16 EFA devices declared, 15 found on the PCI bus",
        "h-3 failed preflight [E-RDMA-COUNT]: 8 links declared, 7 mlx5 devices found",
        "> command efa-installer",
    ] {
        assert!(plan.contains(expected), "{expected}\n{plan}");
    }
    let (code, text) = twin.on(&["apply", "--yes"], &[]);
    assert_eq!(code, 1, "{text}");
    for expected in [
        "h-2 command/rdma-health FAILED [E-RDMA-LINK]",
        "E-RDMA-LINK: 7 of 8 InfiniBand or RoCE links are active, mlx5_0 port 1 DOWN",
        "t-2 command/rdma-health FAILED [E-EFA-LINK]",
        "E-EFA-LINK: 15 of 16 EFA links are active, rdmap0s0 port 1 DOWN",
        "h-1 converged",
        "t-1 command/rdma-peermem",
        "t-1 converged",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    // What the installer brought and is not wanted went in the same run.
    let (code, plan) = twin.on(&["plan"], &["--limit", "h-1,t-1,cp-1"]);
    assert_eq!(code, 0, "{plan}");
    let (code, health) = twin.on(&["verify"], &["--limit", "h-1,h-2,t-1,t-2"]);
    assert_eq!(code, 1, "{health}");
    for expected in ["h-1          healthy", "t-1          healthy", "[E-RDMA-LINK]", "[E-EFA-LINK]"] {
        assert!(health.contains(expected), "{expected}\n{health}");
    }
}
