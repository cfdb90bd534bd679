package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) publishCmd() *cobra.Command {
	var node string
	var access accessFlag
	cmd := &cobra.Command{
		Use:   "publish --node NODE IMAGE[@SNAPSHOT]",
		Short: "Give a node the right to an image or snapshot",
		Long:  "Give a node the right to an image or snapshot. The epoch and the secret token printed\nare what its connections must show; repeating the command prints the same ones.",
	}
	cmd.Flags().StringVar(&node, "node", "", "name of the node")
	cmd.Flags().Var(&access, "access", "write: one node; shared: several nodes that write; read: several nodes; scratch: read, with\na private head that takes writes and is thrown away (default write, of a snapshot read)")
	_ = cmd.RegisterFlagCompletionFunc("access", cobra.FixedCompletions(accessNames(), cobra.ShellCompDirectiveNoFileComp))
	before(cmd, func() error { return wants(cmd, "node") })
	return c.aboutObject(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		p, err := s.Publish(ctx, i.ID, node, access.of(i))
		if err != nil {
			return err
		}
		return c.show(p, func() error {
			target := ""
			if p.Target != p.ID {
				target = " target " + string(p.Target)
			}
			_, err := fmt.Fprintf(c.out, "epoch %d token %s%s\n", p.Epoch, p.Token, target)
			return err
		})
	})
}

// accessFlag is the --access flag; it implements pflag.Value.
type accessFlag struct{ access store.Access }

func (f *accessFlag) String() string { return string(f.access) }

func (f *accessFlag) Set(s string) error {
	if !store.Access(s).Valid() {
		return fmt.Errorf("want %s", strings.Join(accessNames(), ", "))
	}
	f.access = store.Access(s)
	return nil
}

func (*accessFlag) Type() string { return "access" }

// of is the access meant for an object: what was asked for, or what it can give.
func (f *accessFlag) of(i store.Info) store.Access {
	switch {
	case f.access != "":
		return f.access
	case i.Kind == store.KindSnapshot:
		return store.AccessRead
	}
	return store.AccessWrite
}

func accessNames() []string {
	return []string{string(store.AccessWrite), string(store.AccessShared), string(store.AccessRead), string(store.AccessScratch)}
}

func (c *cli) unpublishCmd() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "unpublish [--node NODE] IMAGE[@SNAPSHOT]",
		Short: "Take the right to an image or snapshot back",
		Long:  "Take the right to an image or snapshot back, from one node or from all. When the\ncommand returns, connections were cut and no write of theirs can arrive any more.",
	}
	cmd.Flags().StringVar(&node, "node", "", "only this node's right")
	return c.aboutObject(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		return s.Unpublish(ctx, i.ID, node)
	})
}

// publicationAnswer is a publication without its token, which a list need not tell.
type publicationAnswer struct {
	Name   string       `json:"name"`
	ID     store.ID     `json:"id"`
	Node   string       `json:"node"`
	Access store.Access `json:"access"`
	Target store.ID     `json:"target"`
	Epoch  uint64       `json:"epoch"`
}

func (c *cli) publicationsCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "publications [IMAGE[@SNAPSHOT]]",
		Short:             "List which nodes have rights to what",
		Args:              args(0, 1, "at most one IMAGE or IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.dial()
			if err != nil {
				return err
			}
			var id store.ID
			if len(args) == 1 {
				i, err := c.object(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				id = i.ID
			}
			pubs, err := s.Publications(cmd.Context(), id)
			if err != nil {
				return err
			}
			names := make(map[store.ID]string)
			err = s.Walk(cmd.Context(), func(i store.Info) error { names[i.ID] = i.Ref(); return nil })
			if err != nil {
				return err
			}
			slices.SortFunc(pubs, func(a, b store.Publication) int {
				return cmp.Or(cmp.Compare(names[a.ID], names[b.ID]), cmp.Compare(a.Node, b.Node))
			})
			answer := []publicationAnswer{}
			t := table.New("NAME", "NODE", "ACCESS", ">EPOCH")
			for _, p := range pubs {
				answer = append(answer, publicationAnswer{names[p.ID], p.ID, p.Node, p.Access, p.Target, p.Epoch})
				t.Row(names[p.ID], p.Node, string(p.Access), fmt.Sprint(p.Epoch))
			}
			return c.table(answer, t)
		},
	}
}

func (c *cli) uriCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "uri IMAGE[@SNAPSHOT]",
		Short:             "Print the NBD address of an image or snapshot, for other programs",
		Example:           "  nbdinfo \"$(strata uri data)\"",
		Args:              args(1, 1, "an IMAGE or IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := c.object(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			uri, err := c.client.URI(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(struct {
				ID  store.ID `json:"id"`
				URI string   `json:"uri"`
			}{i.ID, uri}, func() error {
				_, err := fmt.Fprintln(c.out, uri)
				return err
			})
		},
	}
}
