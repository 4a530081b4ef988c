//! What a Service is given on its way in: a cluster IP and node ports.

use super::{
    kinds::Kind,
    refusal::{FieldError, Refusal},
    store::{Inner, text},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// kube-apiserver's default `--service-node-port-range`.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Gives a service its addresses and node ports, keeping those it has.
pub fn allocate(
    inner: &mut Inner,
    kind: &Kind,
    live: Option<&Value>,
    service: &mut Value,
) -> Result<(), Refusal> {
    let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    let service_type = text(service, "/spec/type");
    if service_type == "ExternalName" {
        return Ok(());
    }
    if text(service, "/spec/clusterIP").is_empty() {
        let kept = live.map(|l| text(l, "/spec/clusterIP")).filter(|ip| !ip.is_empty());
        let ip = kept.unwrap_or_else(|| {
            let [a, b, _, _] = inner.service_net;
            inner.next_ip += 1;
            format!("{a}.{b}.{}.{}", inner.next_ip / 250, inner.next_ip % 250 + 1)
        });
        service["spec"]["clusterIP"] = json!(ip);
    }
    service["spec"]["clusterIPs"] = json!([service["spec"]["clusterIP"]]);
    if !matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
        if let Some(Value::Array(ports)) = service.pointer_mut("/spec/ports") {
            for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                port.shift_remove("nodePort");
            }
        }
        return Ok(());
    }
    let taken: BTreeSet<u64> = inner
        .list("services", None)
        .iter()
        .filter(|s| text(s, "/metadata/namespace") != namespace || text(s, "/metadata/name") != name)
        .flat_map(|s| s.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default())
        .filter_map(|p| p["nodePort"].as_u64())
        .collect();
    let before =
        live.and_then(|l| l.pointer("/spec/ports")).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut errors = Vec::new();
    let mut used = taken.clone();
    let Some(Value::Array(ports)) = service.pointer_mut("/spec/ports") else { return Ok(()) };
    for (at, port) in ports.iter_mut().enumerate() {
        let field = format!("spec.ports[{at}].nodePort");
        if let Some(wanted) = port["nodePort"].as_u64().filter(|p| *p != 0) {
            if !u16::try_from(wanted).is_ok_and(|p| NODE_PORTS.contains(&p)) {
                let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                errors.push(FieldError::invalid(&field, &json!(wanted), why));
            } else if !used.insert(wanted) {
                errors.push(FieldError::invalid(
                    &field,
                    &json!(wanted),
                    "provided port is already allocated",
                ));
            }
            continue;
        }
        let kept = before
            .iter()
            .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"])
            .and_then(|p| p["nodePort"].as_u64())
            .filter(|p| !used.contains(p));
        let free = kept.or_else(|| NODE_PORTS.map(u64::from).find(|p| !used.contains(p)));
        match free {
            Some(free) => {
                used.insert(free);
                port["nodePort"] = json!(free);
            }
            None => return Err(Refusal::internal("failed to allocate a nodePort: range is full")),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::invalid(kind, &name, &errors)) }
}
