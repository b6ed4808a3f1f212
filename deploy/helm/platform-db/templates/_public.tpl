{{/* What a chart that has this one among its dependencies includes in its own pods, each in one line:

       initContainers:
         {{- include "platform-db.waitContainer" . | nindent 8 }}
       containers:
         - env:
             {{- include "platform-db.env" . | nindent 12 }}
           volumeMounts:
             {{- include "platform-db.volumeMounts" . | nindent 12 }}
       volumes:
         {{- include "platform-db.volumes" . | nindent 8 }}
*/}}

{{/* An init container that waits until the database has the schema of this release. */}}
{{- define "platform-db.waitContainer" -}}
{{- with eq .Chart.Name "platform-db" | ternary . (get (.Subcharts | default dict) "platform-db") -}}
{{- $args := list "db" "wait" "--migrated" "--timeout" .Values.wait.timeout -}}
- {{ include "platform-db.container" (dict "root" . "name" "wait-for-schema" "args" $args "resources" .Values.wait.resources "pool" "init") | nindent 2 | trim }}
{{- end }}
{{- end }}

{{/* Init containers that bring the database to this release's schema. */}}
{{- define "platform-db.migrateContainers" -}}
{{- with eq .Chart.Name "platform-db" | ternary . (get (.Subcharts | default dict) "platform-db") -}}
{{- range include "platform-db.migrationSteps" . | fromJsonArray }}
- {{ include "platform-db.migrationContainer" (dict "root" $ "step" .) | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{/* The environment of a service's own container: where its files are, and the settings. */}}
{{- define "platform-db.env" -}}
{{- with eq .Chart.Name "platform-db" | ternary . (get (.Subcharts | default dict) "platform-db") -}}
{{- $service := include "platform-db.container" (dict "root" . "name" "service" "args" list "resources" dict "secrets" (list "SECRET_KEY")) | fromYaml -}}
{{- toYaml $service.env }}
{{- end }}
{{- end }}

{{/* Where that container finds the files. */}}
{{- define "platform-db.volumeMounts" -}}
{{- with eq .Chart.Name "platform-db" | ternary . (get (.Subcharts | default dict) "platform-db") -}}
{{- $service := include "platform-db.container" (dict "root" . "name" "service" "args" list "resources" dict "secrets" (list "SECRET_KEY")) | fromYaml -}}
{{- toYaml $service.volumeMounts }}
{{- end }}
{{- end }}

{{/* The volumes of its pod. */}}
{{- define "platform-db.volumes" -}}
{{- with eq .Chart.Name "platform-db" | ternary . (get (.Subcharts | default dict) "platform-db") -}}
{{- include "platform-db.podVolumes" (dict "root" . "secrets" (list "SECRET_KEY")) | trim }}
{{- end }}
{{- end }}
