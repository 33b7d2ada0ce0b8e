// The CustomResourceDefinitions of prometheus-operator, out of its module: the tests check the chart's
// monitors and rules against them (tests/kit/control_plane/monitoring_crds.py). Nothing is built.
module pipemax.dev/monitoring

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
