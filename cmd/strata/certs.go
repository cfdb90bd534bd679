package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/pki"
)

func (c *cli) certsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make and renew certificates for TLS",
		Long: "Make and renew certificates for TLS between stores, controllers, nodes and operators.\n" +
			"Any other authority will do as well: certificates name the role as a DNS name,\n" +
			"store.strata, controller.strata, node.strata or operator.strata, and that of the store\n" +
			"is for servers and clients.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.certsInitCmd(), c.certsRenewCmd())
	return cmd
}

// maxYears keeps dates within what certificates can say.
const maxYears = 100

func validYears(cmd *cobra.Command, flag string, years int) error {
	if years < 1 || years > maxYears {
		return usagef(cmd, "--%s is from 1 to %d, not %d", flag, maxYears, years)
	}
	return nil
}

func (c *cli) certsInitCmd() *cobra.Command {
	t := pki.Terms{}
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make an authority and a certificate for each role",
		Long: "Make an authority in DIR, and for each role a directory in it with ca.crt, tls.crt and\n" +
			"tls.key. Keep DIR/ca.key safe and off the machines that serve: whoever has it can be\n" +
			"anybody. Nothing that exists is replaced.",
		Example:           "  strata certs init pki\n  strata store --data /var/lib/strata --listen tcp://0.0.0.0:10809 --tls-ca pki/store/ca.crt --tls-cert pki/store/tls.crt --tls-key pki/store/tls.key",
		Args:              args(1, 1, "a DIR"),
		ValidArgsFunction: onlyDirs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(validYears(cmd, "years", t.Years), validYears(cmd, "ca-years", t.CAYears)); err != nil {
				return err
			}
			err := pki.Init(args[0], t)
			if errors.Is(err, fs.ErrExist) {
				return advise(err, "renew certificates with: strata certs renew %s; a new authority wants another directory", args[0])
			}
			if err != nil {
				return err
			}
			return c.made(args[0], pki.Roles())
		},
	}
	f := cmd.Flags()
	f.IntVar(&t.Years, "years", 2, "how long the certificates of the roles are valid")
	f.IntVar(&t.CAYears, "ca-years", 10, "how long the authority is valid")
	f.StringArrayVar(&t.Hosts, "host", nil, "further name or address of the store, for clients other than strata (repeatable)")
	return cmd
}

func (c *cli) certsRenewCmd() *cobra.Command {
	t := pki.Terms{}
	cmd := &cobra.Command{
		Use:   "renew DIR [ROLE...]",
		Short: "Replace certificates by new ones of the same authority",
		Long: "Replace certificate and key of each role, or of those named, in a directory made by\n" +
			"strata certs init. Processes that use the files have the new ones from their next\n" +
			"connection on.",
		Example:           "  strata certs renew pki\n  strata certs renew pki node",
		Args:              args(1, -1, "a DIR"),
		ValidArgsFunction: onlyDirs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validYears(cmd, "years", t.Years); err != nil {
				return err
			}
			roles := pki.Roles()
			if len(args) > 1 {
				roles = nil
			}
			for _, name := range args[1:] {
				r, err := roleNamed(cmd, name)
				if err != nil {
					return err
				}
				roles = append(roles, r)
			}
			if err := pki.Renew(args[0], t, roles...); err != nil {
				if errors.Is(err, pki.ErrMissing) {
					return advise(err, "name the directory that strata certs init has made")
				}
				return err
			}
			return c.made(args[0], roles)
		},
	}
	f := cmd.Flags()
	f.IntVar(&t.Years, "years", 2, "how long the new certificates are valid; never beyond the authority")
	f.StringArrayVar(&t.Hosts, "host", nil, "name or address to add to those in the certificate of the store (repeatable)")
	return cmd
}

func roleNamed(cmd *cobra.Command, name string) (pki.Role, error) {
	var names []string
	for _, r := range pki.Roles() {
		if string(r) == name {
			return r, nil
		}
		names = append(names, string(r))
	}
	return "", usagef(cmd, "there is no role %q; the roles are %s", name, strings.Join(names, ", "))
}

// made tells where certificates are and when they expire.
func (c *cli) made(dir string, roles []pki.Role) error {
	type row struct {
		Role    pki.Role `json:"role"`
		Dir     string   `json:"dir"`
		Expires string   `json:"expires"`
	}
	rows := make([]row, 0, len(roles))
	for _, r := range roles {
		at, err := pki.RoleFiles(dir, r).Expires()
		if err != nil {
			return err
		}
		rows = append(rows, row{r, filepath.Join(dir, string(r)), at.UTC().Format("2006-01-02")})
	}
	return c.show(rows, func() error {
		for _, r := range rows {
			fmt.Fprintf(c.out, "%s until %s\n", r.Dir, r.Expires)
		}
		return nil
	})
}

func onlyDirs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
