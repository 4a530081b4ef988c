// Custom resource definitions as upstream ships them, at the versions of catalog/components.yaml.
module provision.test/definitions

go 1.25.0

require (
	github.com/volcano-sh/kthena v1.0.0
	sigs.k8s.io/gateway-api v1.4.0
	sigs.k8s.io/gateway-api-inference-extension v1.2.0
)
