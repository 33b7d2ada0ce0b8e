//go:build tools

// Package tools names what is built, so that `go mod tidy` keeps it in go.mod.
package tools

import (
	_ "sigs.k8s.io/kueue/cmd/kueue"
)
