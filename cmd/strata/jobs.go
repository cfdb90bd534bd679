package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) jobsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "Show and steer background work",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		c.jobsLsCmd(),
		c.jobVerb("pause", "Stop jobs for now; they keep their place", (*storeapi.Client).PauseJob),
		c.jobVerb("resume", "Let paused jobs go on", (*storeapi.Client).ResumeJob),
		c.jobVerb("cancel", "End jobs; what they copied stays valid", (*storeapi.Client).CancelJob),
	)
	return cmd
}

func (c *cli) jobsLsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List jobs that are not done"}
	return c.aboutStore(cmd, func(ctx context.Context, s *storeapi.Client) error {
		jobs, err := s.Jobs(ctx)
		if err != nil {
			return err
		}
		return c.show(list(jobs), func() error { return c.printJobs(ctx, jobs) })
	})
}

func (c *cli) jobVerb(verb, short string, act func(*storeapi.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " JOB...",
		Short:             short,
		Args:              args(1, -1, "one or more JOBs"),
		ValidArgsFunction: c.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.dial()
			if err != nil {
				return err
			}
			var errs []error
			for _, job := range args {
				errs = append(errs, act(s, cmd.Context(), job))
			}
			err = errors.Join(errs...)
			if errors.Is(err, store.ErrNotFound) {
				return advise(err, "see which jobs there are with: strata jobs ls")
			}
			return err
		},
	}
}

func (c *cli) completeJobs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	s, err := c.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	jobs, err := s.Jobs(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, j := range jobs {
		ids = append(ids, cobra.CompletionWithDesc(j.ID, string(j.Kind)+" of "+j.Target))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
