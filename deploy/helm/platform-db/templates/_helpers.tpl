{{/* What the chart's own templates share. _public.tpl has what other charts include. */}}

{{- define "platform-db.fullname" -}}
{{- $name := default "platform-db" .Values.nameOverride -}}
{{- /* 36 leaves room for a cronjob's name and what the controller appends to it. */ -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 36 | trimSuffix "-" -}}
{{- end }}

{{- define "platform-db.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{- if eq .tag "latest" }}{{ fail "image.tag: latest names no release" }}{{ end -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "platform-db.selector" -}}
app.kubernetes.io/name: platform-db
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* (dict "root" $ "component" NAME) */}}
{{- define "platform-db.labels" -}}
{{ include "platform-db.selector" .root }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: platform-db
{{- end }}

{{/* The metadata of a pod: (dict "root" $ "component" NAME) */}}
{{- define "platform-db.podMetadata" -}}
labels:
  {{- include "platform-db.labels" . | nindent 2 }}
  {{- with .root.Values.pod.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.pod.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every pod has. */}}
{{- define "platform-db.pod" -}}
serviceAccountName: {{ .Values.serviceAccountName }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.pod.runAsUser }}
  runAsGroup: {{ .Values.pod.runAsGroup }}
  {{- with .Values.pod.supplementalGroups }}
  supplementalGroups: {{ toJson . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "platform-db.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A container of platform-db's image:
     (dict "root" $ "name" NAME "args" LIST "resources" MAP "secrets" LIST "workspaces" none|readOnly|readWrite "shards" N
      "pool" PURPOSE) */}}
{{- define "platform-db.container" -}}
{{- $secrets := include "platform-db.secrets" . | fromJsonArray -}}
{{- $workspaces := .workspaces | default "none" -}}
name: {{ .name }}
image: {{ include "platform-db.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- range $secrets }}
  - name: PLATFORM_DB_{{ . }}_FILE
    value: /run/secrets/platform-db/{{ include "platform-db.volumeName" . }}/{{ get $.root.Values.secret.keys . }}
  {{- end }}
  {{- if and .pool (not .root.Values.settings.POOL) }}
  - name: PLATFORM_DB_POOL
    value: {{ .pool }}
  {{- end }}
  {{- if .root.Values.pgbouncer.enabled }}
  - name: PLATFORM_DB_CONNECTION_OPTIONS # PgBouncer refuses them
    value: "false"
  {{- end }}
  {{- if ne $workspaces "none" }}
  - name: PLATFORM_DB_WORKSPACE_ROOT
    value: {{ .root.Values.workspaces.mountPath }}
  {{- end }}
  {{- range $name, $value := .pool | eq "cron" | ternary (omit .root.Values.settings "STATEMENT_TIMEOUT") .root.Values.settings }}
  - name: PLATFORM_DB_{{ $name }}
    value: {{ include "platform-db.text" $value | quote }}
  {{- end }}
  {{- if gt (int .shards) 1 }}
  - name: SHARD
    valueFrom:
      fieldRef:
        fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
  {{- end }}
volumeMounts:
  {{- range $secrets }}
  - name: {{ include "platform-db.volumeName" . }}
    mountPath: /run/secrets/platform-db/{{ include "platform-db.volumeName" . }}
    readOnly: true
  {{- end }}
  {{- if ne $workspaces "none" }}
  - name: workspaces
    mountPath: {{ .root.Values.workspaces.mountPath }}
    readOnly: {{ eq $workspaces "readOnly" }}
  {{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
{{ include "platform-db.containerSecurity" . }}
{{- end }}

{{/* A setting's value as text: Helm reads numbers as floats, which would print as 1e+06. */}}
{{- define "platform-db.text" -}}
{{- if kindIs "float64" . }}{{ toJson . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* The settings that a container reads from files, as a JSON list: (dict "root" $ "secrets" LIST) */}}
{{- define "platform-db.secrets" -}}
{{- $found := list -}}
{{- range concat (list "URI" "PASSWORD") (.secrets | default list) | uniq -}}
{{- if get $.root.Values.secret.keys . }}{{ $found = append $found . }}{{ end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{- define "platform-db.volumeName" -}}
{{- lower . | replace "_" "-" -}}
{{- end }}

{{/* The volumes of a pod: (dict "root" $ "secrets" LIST "workspaces" none|readOnly|readWrite).
     Each secret setting is a volume of its own, so that each container of the pod mounts what it reads. */}}
{{- define "platform-db.podVolumes" -}}
{{- range include "platform-db.secrets" . | fromJsonArray }}
- name: {{ include "platform-db.volumeName" . }}
  secret:
    secretName: {{ $.root.Values.secret.name }}
    items:
      - key: {{ get $.root.Values.secret.keys . }}
        path: {{ get $.root.Values.secret.keys . }}
{{- end }}
{{- if ne (.workspaces | default "none") "none" }}
- name: workspaces
  persistentVolumeClaim:
    claimName: {{ .root.Values.workspaces.existingClaim }}
{{- end }}
{{- end }}

{{/* What the controller does when a pod fails, by exit code: (dict "permanent" FailJob|FailIndex) */}}
{{- define "platform-db.podFailurePolicy" -}}
podFailurePolicy:
  rules:
    # The node was drained, or the pod evicted: again, and not counted.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # 8: another run holds the lease. That of a killed run expires within a minute, which the retries outlast.
    - action: Count
      onExitCodes:
        operator: In
        values: [8]
    # Another try would end like this one. 9: some items failed; the next scheduled run tries them again.
    - action: {{ .permanent }}
      onExitCodes:
        operator: In
        values: [2, 3, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19]
{{- end }}

{{/* The containers that migrate, one after another: the last is the pod's container or its last init container. */}}
{{- define "platform-db.migrationSteps" -}}
{{- $steps := list -}}
{{- $phase := eq .Values.migration.phase "all" | ternary list (list "--phase" .Values.migration.phase) -}}
{{- with .Values.migration.roles -}}
{{- if or .create .grant -}}
{{- $steps = append $steps (dict "name" "upgrade" "args" (concat (list "alembic" "upgrade") $phase)) -}}
{{- if .create }}{{ $steps = append $steps (dict "name" "roles" "args" (list "roles" "create")) }}{{ end -}}
{{- range $index, $grant := .grant -}}
{{- $args := list "roles" "grant" "--to" $grant.login "--as" ($grant.role | default "service") -}}
{{- $steps = append $steps (dict "name" (printf "grant-%d" $index) "args" $args) -}}
{{- end -}}
{{- if not .grant }}{{ $steps = append $steps (dict "name" "grant" "args" (list "roles" "grant")) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson (append $steps (dict "name" "init" "args" (concat (list "init") $phase))) -}}
{{- end }}

{{/* One step as a container: (dict "root" $ "step" STEP) */}}
{{- define "platform-db.migrationContainer" -}}
{{- $resources := .root.Values.migration.resources -}}
{{ include "platform-db.container" (dict "root" .root "name" .step.name "args" .step.args "secrets" (list "MIGRATION_URI") "resources" $resources "pool" "init") }}
{{- end }}
