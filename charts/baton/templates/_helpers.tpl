{{/* Names and small pieces that several templates share. Each takes the root context unless it says otherwise. */}}

{{- define "baton.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The cluster's name in etcd. */}}
{{- define "baton.cluster" -}}
{{- .Values.cluster | default .Release.Name | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "baton.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* Labels of an object of a component: dict root, component. */}}
{{- define "baton.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: baton
{{ include "baton.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What selects the pods of a component; never changes: dict root, component. */}}
{{- define "baton.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Name, namespace, labels, annotations of an object: dict root, component, name, optional annotations. */}}
{{- define "baton.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "baton.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* `baton-relay-0.baton-relay.prod.svc`: dict root, component, index. */}}
{{- define "baton.podHost" -}}
{{- $set := printf "%s-%s" (include "baton.fullname" .root) .component -}}
{{- printf "%s-%d.%s.%s.svc" $set (int .index) $set .root.Release.Namespace -}}
{{- end -}}

{{- define "baton.secretName" -}}
{{- if .Values.secrets.existingSecret -}}
{{- .Values.secrets.existingSecret -}}
{{- else if .Values.secrets.values -}}
{{- include "baton.fullname" . }}-values
{{- else -}}
{{- include "baton.fullname" . }}-secrets
{{- end -}}
{{- end -}}

{{/* The keys of that Secret that this release needs, one a line. */}}
{{- define "baton.secretKeys" -}}
token
relay-password
replication-password
lag-password
probe-password
{{- if .Values.database.enabled }}
agent-password
root-password
{{- if .Values.database.name }}
app-password
{{- end }}
{{- end }}
{{- if .Values.externalEtcd.user }}
etcd-password
{{- end }}
{{- end -}}

{{/* A volume with some keys of the Secret, each as a file of that name: dict root, keys. */}}
{{- define "baton.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ include "baton.secretName" .root }}
    defaultMode: 288
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
      {{- if .root.Values.externalEtcd.user }}
      - {key: etcd-password, path: etcd-password}
      {{- end }}
{{- end -}}

{{- define "baton.controllerAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- include "baton.fullname" . }}-controller
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "baton.etcdScheme" -}}
{{- if .Values.etcd.tls.secret }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* Secret with the client's TLS files for etcd; empty without TLS. */}}
{{- define "baton.etcdTlsSecret" -}}
{{- if .Values.etcd.enabled }}{{ .Values.etcd.tls.secret }}{{ else }}{{ .Values.externalEtcd.tls.secret }}{{ end -}}
{{- end -}}

{{/* The [etcd] section of a configuration file. */}}
{{- define "baton.etcdToml" -}}
[etcd]
{{- if .Values.etcd.enabled }}
endpoints = [
{{- $root := . }}
{{- range $i := until 3 }}
  "{{ include "baton.etcdScheme" $root }}://{{ include "baton.podHost" (dict "root" $root "component" "etcd" "index" $i) }}:2379",
{{- end }}
]
{{- else }}
endpoints = [
{{- range required "externalEtcd.endpoints is needed where etcd.enabled is false" .Values.externalEtcd.endpoints }}
  {{ . | quote }},
{{- end }}
]
{{- end }}
{{- if include "baton.etcdTlsSecret" . }}
ca_file = "/etc/baton/etcd-tls/ca.crt"
{{- if or .Values.etcd.enabled .Values.externalEtcd.tls.clientCertificate }}
cert_file = "/etc/baton/etcd-tls/tls.crt"
key_file = "/etc/baton/etcd-tls/tls.key"
{{- end }}
{{- end }}
{{- if and (not .Values.etcd.enabled) .Values.externalEtcd.user }}
user = {{ .Values.externalEtcd.user | quote }}
password_file = "/etc/baton/secrets/etcd-password"
{{- end }}
{{- end -}}

{{- define "baton.etcdTlsVolume" -}}
{{- with include "baton.etcdTlsSecret" . }}
- name: etcd-tls
  secret:
    secretName: {{ . }}
    defaultMode: 288
{{- end }}
{{- end -}}

{{- define "baton.etcdTlsMount" -}}
{{- if include "baton.etcdTlsSecret" . }}
- {name: etcd-tls, mountPath: /etc/baton/etcd-tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* securityContext of a container that needs no privilege at all. */}}
{{- define "baton.locked" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end -}}

{{/* securityContext of a pod: dict user. */}}
{{- define "baton.podSecurity" -}}
fsGroup: {{ .user }}
fsGroupChangePolicy: OnRootMismatch
runAsGroup: {{ .user }}
runAsNonRoot: true
runAsUser: {{ .user }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Where the pods of a component go: dict root, component, values (of the component). */}}
{{- define "baton.placement" -}}
{{- $selector := dict "matchLabels" (include "baton.selector" . | fromYaml) -}}
{{- if .values.affinity }}
affinity:
  {{- toYaml .values.affinity | nindent 2 }}
{{- else if ne .values.antiAffinity "none" }}
affinity:
  podAntiAffinity:
    {{- if eq .values.antiAffinity "hard" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          {{- toYaml $selector | nindent 10 }}
    {{- end }}
    {{- if or (eq .values.antiAffinity "soft") (eq .component "relay") }}
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- if eq .values.antiAffinity "soft" }}
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            {{- toYaml $selector | nindent 12 }}
      {{- end }}
      {{- if eq .component "relay" }}
      # The relay that acknowledges must not stand on the primary's node.
      - weight: 50
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "baton.selector" (dict "root" .root "component" "db") | nindent 14 }}
      {{- end }}
    {{- end }}
{{- end }}
topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      {{- toYaml $selector | nindent 6 }}
  {{- with .values.spreadOver }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      {{- toYaml $selector | nindent 6 }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Metadata of a component's pods: dict root, component, values, optional config (whose change restarts them). */}}
{{- define "baton.podMetadata" -}}
labels:
  {{- include "baton.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (ternary (dict "baton/config" (.config | default "" | sha256sum)) dict (hasKey . "config")) .values.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Variables of every program of Baton. */}}
{{- define "baton.env" -}}
- name: BATON_LOG
  value: {{ .Values.logLevel | quote }}
- name: BATON_LOG_FORMAT
  value: {{ .Values.logFormat }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end -}}

{{/* Variable with what dies together with the pod: dict root, variable. */}}
{{- define "baton.hostEnv" -}}
- name: {{ .variable }}
  valueFrom: {fieldRef: {fieldPath: {{ ternary "spec.nodeName" "metadata.name" (eq .root.Values.failureDomain "node") }}}}
{{- end -}}

{{/* The volume claim of a StatefulSet: dict values. Its name never changes: the claims of a release are found by it. */}}
{{- define "baton.volumeClaim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    {{- with .values.persistence.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .values.persistence.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .values.persistence.size }}}}
{{- end -}}

{{/* A PodDisruptionBudget: dict root, component, values. */}}
{{- define "baton.pdb" -}}
{{- if .values.pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "baton.metadata" (dict "root" .root "component" .component "name" (printf "%s-%s" (include "baton.fullname" .root) .component)) | nindent 2 }}
spec:
  maxUnavailable: {{ .values.pdb.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "baton.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A Service: dict root, component, name, values (type, port, annotations), portName, targetPort; without selector if `free`. */}}
{{- define "baton.service" -}}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "baton.metadata" (dict "root" .root "component" .component "name" .name "annotations" .values.annotations "labels" .labels) | nindent 2 }}
spec:
  type: {{ .values.type }}
  {{- if not .free }}
  selector:
    {{- include "baton.selector" . | nindent 4 }}
  {{- end }}
  ports:
    - {name: {{ .portName }}, port: {{ .values.port }}, targetPort: {{ .targetPort }}, protocol: TCP}
{{- end -}}

{{/* A headless Service that gives each pod of a StatefulSet its name, ready or not: dict root, component, ports (name: number). */}}
{{- define "baton.headless" -}}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "baton.metadata" (dict "root" .root "component" .component "name" (printf "%s-%s" (include "baton.fullname" .root) .component) "labels" (dict "baton/scrape" "true")) | nindent 2 }}
spec:
  type: ClusterIP
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "baton.selector" . | nindent 4 }}
  ports:
    {{- range $name, $number := .ports }}
    - {name: {{ $name }}, port: {{ $number }}, targetPort: {{ $number }}, protocol: TCP}
    {{- end }}
{{- end -}}
