{{- define "pipemax.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "pipemax.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "pipemax.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pipemax.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Of cluster-wide objects: two releases in two namespaces must not meet. */}}
{{- define "pipemax.clusterName" -}}
{{- if eq (include "pipemax.fullname" .) .Release.Namespace }}
{{- include "pipemax.fullname" . }}
{{- else }}
{{- printf "%s-%s" .Release.Namespace (include "pipemax.fullname" .) }}
{{- end }}
{{- end }}

{{- define "pipemax.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pipemax.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "pipemax.labels" -}}
{{ include "pipemax.componentLabels" (list . "operator") }}
{{- end }}

{{- /* Called with (list root component). */}}
{{- define "pipemax.componentLabels" -}}
{{- with index . 0 -}}
app.kubernetes.io/name: {{ include "pipemax.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
app.kubernetes.io/component: {{ index . 1 }}
{{- with index . 0 }}
app.kubernetes.io/part-of: pipemax
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pipemax.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "pipemax.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* [registry/]repository(:tag|@digest); called with (list root image). */}}
{{- define "pipemax.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- /* "8Gi" as a number of bytes. */}}
{{- define "pipemax.bytes" -}}
{{- $factors := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $text := toString . }}
{{- $unit := regexFind "[KMGT]i$" $text }}
{{- mul (trimSuffix $unit $text | int64) (get $factors $unit | default 1) }}
{{- end }}

{{- /* PIPEMAX_WORKER_SETTINGS: OperatorSettings of pipemax_operator, as JSON. */}}
{{- define "pipemax.workerSettings" -}}
{{- $worker := .Values.worker }}
{{- $settings := dict
  "image" (include "pipemax.image" (list . $worker.image))
  "image_pull_policy" $worker.imagePullPolicy
  "image_pull_secrets" .Values.imagePullSecrets
  "command" $worker.command
  "environment" $worker.env
  "extra_volumes" $worker.extraVolumes
  "extra_volume_mounts" $worker.extraVolumeMounts
  "run_as_user" ($worker.runAsUser | int64)
  "metrics_port" ($worker.metricsPort | int64)
  "shared_memory_bytes" (include "pipemax.bytes" $worker.sharedMemory | int64)
  "memory_overhead_bytes" (include "pipemax.bytes" $worker.memoryOverhead | int64)
  "nvme_write_bytes_per_second" ($worker.nvmeWriteBytesPerSecond | int64)
  "gpu_affinity" $worker.gpuAffinity
  "gpus_for_cpu_jobs" ($worker.gpusForCpuJobs | int64)
  "max_retries" ($worker.maxRetries | int64)
  "poll_seconds" ($worker.pollSeconds | float64)
  "system_namespace" (ternary .Release.Namespace "" .Values.nvmeSweeps.enabled)
  "system_name" (include "pipemax.fullname" .)
  "sweep_queue_name" .Values.nvmeSweeps.queueName
  "allowed_host_paths" .Values.jobs.allowedHostPaths
  "allowed_images" .Values.jobs.allowedImages
}}
{{- toJson $settings }}
{{- end }}

{{- /* The API server's address, where it is not the cluster's own service. */}}
{{- define "pipemax.apiServerEnv" -}}
{{- with .Values.apiServer }}
{{- if .address -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .address | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the operator does in its own namespace: records of jobs' folders on nodes' disks, and
       the Jobs that sweep them. */}}
{{- define "pipemax.sweepRules" -}}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}

{{- /* What the operator does in the namespaces of jobs, and nothing more. */}}
{{- define "pipemax.rules" -}}
- apiGroups: [pipemax.dev]
  resources: [inferencejobs]
  verbs: [get, list, watch, delete] # delete: ttlSecondsAfterFinished
- apiGroups: [pipemax.dev]
  resources: [inferencejobs/status]
  verbs: [patch]
- apiGroups: [pipemax.dev]
  resources: [inferencejobs/finalizers] # blockOwnerDeletion, where the API server checks it
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  # delete: pods of lost nodes (spec.nodeLoss); patch: keep pods off nodes with a lost GPU.
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/status] # of them: that they have ended, which no kubelet says
  verbs: [patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads] # why a job waits; spec.suspend of a job that Kueue holds
  verbs: [list, patch]
- apiGroups: [""]
  resources: [configmaps] # get: whose the one is that has a job's name
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create] # list: what a kubelet says of a pod that does not start
{{- end }}
