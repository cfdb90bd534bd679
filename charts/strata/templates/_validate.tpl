{{/* What a schema cannot say: how values fit together. Each message names the value and
what to do. */}}
{{- define "strata.validate" -}}
{{- $v := .Values -}}
{{- $names := list -}}{{- $defaults := 0 -}}
{{- $clusters := list -}}
{{- $ports := list (int $v.store.ports.api) (int $v.store.ports.nbd) (int $v.store.ports.http) (int $v.node.ports.http) -}}
{{- range $v.ceph.clusters -}}
{{- if has .name $clusters -}}{{- fail (printf "ceph.clusters: %s appears twice" .name) -}}{{- end -}}
{{- $clusters = append $clusters .name -}}
{{- if hasPrefix "client." .user -}}
{{- fail (printf "ceph.clusters: the user of %s is named without client." .name) -}}
{{- end -}}
{{- if and (not .key) (not .existingSecret) -}}
{{- fail (printf "ceph.clusters: %s needs key, or existingSecret" .name) -}}
{{- end -}}
{{- end -}}
{{- range $pool := $v.pools -}}
{{- if has .name $names -}}{{- fail (printf "pools: %s appears twice" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- if .default -}}{{- $defaults = add1 $defaults -}}{{- end -}}
{{- if and (include "strata.poolIsOurs" .) (not $v.store.enabled) -}}
{{- fail (printf "pools: %s is of this chart's stores, and store.enabled is false; give it members or a service" .name) -}}
{{- end -}}
{{- if eq (default "layered" .backend) "ceph" -}}
{{- if not (has .ceph.cluster $clusters) -}}
{{- fail (printf "pools: %s is on the Ceph cluster %s, which is not among ceph.clusters" .name .ceph.cluster) -}}
{{- end -}}
{{- range list "api" "http" -}}
{{- $port := int (include "strata.cephPort" (list $pool .)) -}}
{{- if has $port $ports -}}
{{- fail (printf "pools: port %d of the gateways of %s is in use; give it others with ceph.ports" $port $pool.name) -}}
{{- end -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- if and (not $v.ceph.gateway.image.repository) -}}
{{- fail (printf "pools: %s is on Ceph, which needs an image of strata that is built with librbd (make build-ceph); name it in ceph.gateway.image" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (int $defaults) 1 -}}{{- fail "pools: at most one may have default: true" -}}{{- end -}}
{{- $own := include "strata.ownPools" . | fromJsonArray -}}
{{- if gt (len $own) 1 -}}
{{- fail (printf "pools: %s are all of this chart's stores; a store belongs to one pool. Give the others members or a service" (join ", " $own)) -}}
{{- end -}}
{{- if and $v.store.enabled (not $own) (or $v.controller.enabled $v.node.enabled) -}}
{{- fail "store.enabled is true, and no pool is of this chart's stores; leave members and service out of one pool, or set store.enabled=false" -}}
{{- end -}}
{{- range $v.storageClasses -}}
{{- if and .pool (not (has .pool $names)) -}}
{{- fail (printf "storageClasses: %s names the pool %s, which is not among pools" .name .pool) -}}
{{- end -}}
{{- if and (not .pool) (eq (int $defaults) 0) (gt (len $names) 1) -}}
{{- fail (printf "storageClasses: %s names no pool, and none of the pools has default: true" .name) -}}
{{- end -}}
{{- end -}}
{{- include "strata.validateStore" . -}}
{{- include "strata.validateTLS" . -}}
{{- if and $v.controller.podDisruptionBudget.enabled (lt (int $v.controller.replicas) 1) -}}
{{- fail "controller.replicas must be at least 1" -}}
{{- end -}}
{{- end -}}

{{- define "strata.validateStore" -}}
{{- $s := .Values.store -}}
{{- if $s.enabled -}}
{{- $ports := list (int $s.ports.api) (int $s.ports.nbd) (int $s.ports.http) (int .Values.node.ports.http) -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- fail "store.ports and node.ports must differ: all of them are ports of the hosts" -}}
{{- end -}}
{{- $other := ternary "DaemonSet" "StatefulSet" (eq $s.mode "StatefulSet") -}}
{{- if lookup "apps/v1" $other .Release.Namespace (printf "%s-store" (include "strata.fullname" .)) -}}
{{- fail (printf "store.mode is %s, and this release has stores of a %s: their volumes would be out of reach. If there are none, delete it first: kubectl -n %s delete %s %s-store" $s.mode $other .Release.Namespace (lower $other) (include "strata.fullname" .)) -}}
{{- end -}}
{{- if eq $s.mode "StatefulSet" -}}
{{- range .Values.storageClasses -}}
{{- if and (eq .name (default "" $s.statefulSet.storageClassName)) -}}
{{- fail (printf "store.statefulSet.storageClassName is %s, which these stores would have to serve themselves; name a class of another driver" .name) -}}
{{- end -}}
{{- if and .default (not $s.statefulSet.storageClassName) -}}
{{- fail (printf "storageClasses: %s is the cluster's default, so the stores' own claims would be of it; set store.statefulSet.storageClassName to a class of another driver" .name) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- range list "socketPath" "recordPath" -}}
{{- $path := index $s . -}}
{{- if or (eq $path $s.hostPath) (hasPrefix (printf "%s/" $s.hostPath) $path) -}}
{{- fail (printf "store.%s (%s) must be outside of store.hostPath (%s)" . $path $s.hostPath) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "strata.validateTLS" -}}
{{- $t := .Values.tls -}}
{{- if and (eq $t.source "certManager") (not (include "strata.hasAPI" (list . "cert-manager.io/v1"))) -}}
{{- fail "tls.source is certManager, and the cluster has no cert-manager.io/v1; install cert-manager first (without a cluster: --api-versions cert-manager.io/v1)" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (not (include "strata.hasAPI" (list . "monitoring.coreos.com/v1"))) -}}
{{- fail "metrics.podMonitor.enabled is true, and the cluster has no monitoring.coreos.com/v1; install the Prometheus operator first (without a cluster: --api-versions monitoring.coreos.com/v1)" -}}
{{- end -}}
{{- if gt (int $t.certificateDays) (int $t.caDays) -}}
{{- fail "tls.certificateDays must not exceed tls.caDays" -}}
{{- end -}}
{{- end -}}
