package driver

import (
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// stripped is a message as it may be logged: without what the specification marks as
// secret, without the token in a publish context, and without mount flags, which may
// hold secrets as well.
type stripped struct{ msg any }

const strippedText = "***stripped***"

// String implements fmt.Stringer. It costs something, so it is called only when logged.
func (s stripped) String() string {
	m, ok := s.msg.(proto.Message)
	if !ok || !m.ProtoReflect().IsValid() {
		return protosanitizer.StripSecrets(s.msg).String()
	}
	m = proto.Clone(m)
	strip(m.ProtoReflect())
	return protosanitizer.StripSecrets(m).String()
}

// strip changes a message, and those within.
func strip(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Name() == "publish_context" && f.IsMap():
			token := protoreflect.ValueOfString(contextToken).MapKey()
			if v.Map().Has(token) {
				v.Map().Set(token, protoreflect.ValueOfString(strippedText))
			}
		case f.Name() == "mount_flags" && f.IsList():
			for i := range v.List().Len() {
				v.List().Set(i, protoreflect.ValueOfString(strippedText))
			}
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				strip(v.List().Get(i).Message())
			}
		case !f.IsMap() && f.Message() != nil:
			strip(v.Message())
		}
		return true
	})
}
