{{/* The pools file, and what it needs. */}}

{{/* The port and host name of the store API, looked up anew for each discovery. The
search domains of the cluster's DNS complete the name. */}}
{{- define "strata.storeService" -}}
{{- printf "%s-store.%s.svc:%d" (include "strata.fullname" .) .Release.Namespace (int .Values.store.ports.api) -}}
{{- end -}}

{{/* Whether a pool is made of the stores of this chart: it says nothing else. */}}
{{- define "strata.poolIsOurs" -}}
{{- if and (eq (default "layered" .backend) "layered") (not .members) (not .service) (not .local) -}}yes{{- end -}}
{{- end -}}

{{/* The pools file for a role: (list $ "node"). Only nodes may have a store beside them. */}}
{{- define "strata.poolsFile" -}}
{{- $root := index . 0 -}}{{- $role := index . 1 -}}
{{- with include "strata.cephClusters" $root | fromJsonArray -}}
clusters:
{{- range . }}
  - name: {{ .name }}
    monitors:
      {{- range .monitors }}
      - {{ . | quote }}
      {{- end }}
    user: {{ .user }}
    keyFile: /etc/ceph/{{ .name }}/key
{{- end }}
{{ end -}}
pools:
{{- range $pool := $root.Values.pools }}
  - name: {{ .name }}
    {{- if .default }}
    default: true
    {{- end }}
    backend: {{ default "layered" .backend }}
    {{- if include "strata.poolIsOurs" . }}
    {{- with $root.Values.store.members }}
    members:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- else }}
    service: {{ include "strata.storeService" $root }}
    {{- end }}
    {{- if eq $role "node" }}
    local: {{ $root.Values.store.socketPath }}
    {{- end }}
    {{- else if eq (default "layered" .backend) "ceph" }}
    cluster: {{ .ceph.cluster }}
    cephPool: {{ .ceph.pool | quote }}
    {{- range $key := list "namespace" "dataPool" "installation" }}
    {{- with index $pool.ceph $key }}
    {{ $key }}: {{ . | quote }}
    {{- end }}
    {{- end }}
    service: {{ include "strata.fullname" $root }}-gateway-{{ .name }}.{{ $root.Release.Namespace }}.svc:{{ include "strata.cephPort" (list . "api") }}
    {{- if eq $role "node" }}
    local: {{ include "strata.cephSockets" . }}
    {{- end }}
    {{- else }}
    {{- with .members }}
    members:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- with .service }}
    service: {{ . }}
    {{- end }}
    {{- if and .local (eq $role "node") }}
    local: {{ .local }}
    {{- end }}
    {{- end }}
    {{- with .cloneMode }}
    cloneMode: {{ . }}
    {{- end }}
    {{- range $key := list "softCloneDepth" "hardCloneDepth" "blockSize" "iops" "bandwidth" }}
    {{- $value := index $pool $key }}
    {{- if $value }}
    {{ $key }}: {{ int64 $value }}
    {{- end }}
    {{- end }}
{{- end }}
{{- if eq $root.Values.tls.source "none" }}
insecure: true
{{- else }}
tls:
  ca: /etc/strata-tls/ca.crt
  cert: /etc/strata-tls/tls.crt
  key: /etc/strata-tls/tls.key
{{- end }}
{{- end -}}

{{/* The pools of this chart's own stores, as a JSON list. */}}
{{- define "strata.ownPools" -}}
{{- $own := list -}}
{{- range .Values.pools -}}
{{- if include "strata.poolIsOurs" . -}}{{- $own = append $own .name -}}{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* The pools on Ceph, as a JSON list. */}}
{{- define "strata.cephPools" -}}
{{- $pools := list -}}
{{- range .Values.pools -}}
{{- if eq (default "layered" .backend) "ceph" -}}{{- $pools = append $pools . -}}{{- end -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* The clusters of Ceph that these name, as a JSON list. */}}
{{- define "strata.cephClusters" -}}
{{- $names := list -}}
{{- range include "strata.cephPools" . | fromJsonArray -}}{{- $names = append $names .ceph.cluster -}}{{- end -}}
{{- $used := list -}}
{{- range .Values.ceph.clusters -}}
{{- if has .name $names -}}{{- $used = append $used . -}}{{- end -}}
{{- end -}}
{{- toJson $used -}}
{{- end -}}

{{/* A port of the gateways of a pool: (list $pool "api"). */}}
{{- define "strata.cephPort" -}}
{{- index (default dict (index . 0).ceph.ports) (index . 1) | default (index (dict "api" 10820 "http" 10821) (index . 1)) | int -}}
{{- end -}}

{{/* Where the sockets of a pool's gateway are on each node. */}}
{{- define "strata.cephSockets" -}}/run/strata-{{ .name }}{{- end -}}

{{/* The Secret with the key of a cluster: (list $ $cluster). */}}
{{- define "strata.cephSecret" -}}
{{- $root := index . 0 -}}{{- $cluster := index . 1 -}}
{{- default (printf "%s-ceph-%s" (include "strata.fullname" $root) $cluster.name) $cluster.existingSecret -}}
{{- end -}}

{{/* Whether an API is there: (list $ "group/version/Kind"). */}}
{{- define "strata.hasAPI" -}}
{{- if (index . 0).Capabilities.APIVersions.Has (index . 1) -}}yes{{- end -}}
{{- end -}}

{{/* Directories of stores on the nodes that other pools name, as a JSON list. */}}
{{- define "strata.localPaths" -}}
{{- $paths := list -}}{{- $seen := list -}}
{{- range .Values.pools -}}
{{- $path := default "" .local -}}
{{- if eq (default "layered" .backend) "ceph" -}}{{- $path = include "strata.cephSockets" . -}}{{- end -}}
{{- if and $path (not (has $path $seen)) -}}
{{- $seen = append $seen $path -}}
{{- $paths = append $paths (dict "name" (printf "local-%s" .name) "path" $path) -}}
{{- end -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}
