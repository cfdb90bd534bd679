{{/* Annotations of an object of the test: its place in the order. */}}
{{- define "strata.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* A pod that runs a script over a claim: (dict "root" $ "claim" $name "script" $lines). */}}
{{- define "strata.testPod" -}}
{{- $t := .root.Values.test -}}
restartPolicy: Never
# A pod that waits for ever would keep its claim, and so the next test from starting.
activeDeadlineSeconds: 600
automountServiceAccountToken: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $t.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $t.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: test
    image: {{ default (include "strata.strataImage" .root) $t.image }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [/bin/sh, -ec]
    args:
      - |
        {{- range .script }}
        {{ . }}
        {{- end }}
    securityContext:
      {{- toYaml .root.Values.controller.securityContext | nindent 6 }}
    volumeMounts:
      - name: data
        mountPath: /data
volumes:
  - name: data
    persistentVolumeClaim:
      claimName: {{ .claim }}
{{- end -}}
