"""Prompts as the client offers them: versions, labels, resolution, watches."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._prompt_cache import MAX_STALE, PromptCache
from fleetplane._prompt_values import (
    Fallback,
    PromptMessage,
    PromptVersion,
    ResolvedPrompt,
    variable_to_message,
)
from fleetplane._prompt_watch import PromptWatch
from fleetplane._values import JsonValue, one_of, to_struct
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane_prompts import VariableSpec


class PromptCalls(Connected):
    """Prompts: immutable versions, and labels that are moved over them.

    Agents use `prompt_cache`, or `resolve_prompt` where they ask rarely. Every method takes
    `timeout`, its deadline in seconds over all attempts (None: the channel's default), and raises
    `NotFound` (PROMPT_NOT_FOUND, PROMPT_VERSION_NOT_FOUND, LABEL_NOT_FOUND) for what is not there.
    """

    async def create_prompt_version(
        self,
        prompt: str,
        content: str | Sequence[PromptMessage],
        *,
        reason: str,
        variables: Mapping[str, VariableSpec] | None = None,
        config: Mapping[str, JsonValue] | None = None,
        force_new: bool = False,
        expected_latest: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.CreatePromptVersionResponse:
        """Write a version; the first one makes the prompt.

        Args:
            prompt: its name.
            content: a text, or the messages of a chat, with variables as `{{name}}`.
            reason: why.
            variables: what variables take; those that are not named here are required strings.
            config: what goes with it, such as model and temperature.
            force_new: make a version even if it equals the newest.
            expected_latest: refuse if the newest version is another one; 0: it must not exist.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Returns:
            The version, and whether it was made: what equals the newest one is that one.

        Raises:
            InvalidArgument: a variable is malformed or of no use; `violations` say where.
            LimitExceeded: it is too large, or there are too many.
            RevisionConflict: the newest version is not `expected_latest`.
        """
        request = pb.CreatePromptVersionRequest(
            namespace=self.namespace,
            prompt=prompt,
            variables=[variable_to_message(name, spec) for name, spec in (variables or {}).items()],
            config=to_struct(config or {}),
            reason=reason,
            force_new=force_new,
            expected_latest=expected_latest,
            request_id=request_id or new_request_id(),
        )
        if isinstance(content, str):
            request.text = content
        else:
            request.messages.extend(one.to_message() for one in content)
        connection = self.connection
        return await connection.call(connection.prompts.CreatePromptVersion, request, timeout)

    async def get_prompt_version(
        self,
        prompt: str,
        *,
        version: int = 0,
        label: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> PromptVersion:
        """Return a version: by number, by label, or the newest."""
        request = pb.GetPromptVersionRequest(
            namespace=self.namespace,
            prompt=prompt,
            version=version,
            label=label,
            min_revision=min_revision,
        )
        connection = self.connection
        response = await connection.call(connection.prompts.GetPromptVersion, request, timeout)
        return PromptVersion.from_message(response.version)

    async def list_prompts(
        self,
        *,
        name_prefix: str = "",
        page_size: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Prompt]:
        """Iterate over prompts with their labels, by name, page by page."""
        connection = self.connection
        token = ""
        while True:
            request = pb.ListPromptsRequest(
                namespace=self.namespace,
                name_prefix=name_prefix,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
            )
            page = await connection.call(connection.prompts.ListPrompts, request, timeout)
            for prompt in page.prompts:
                yield prompt
            token = page.next_page_token
            if not token:
                return

    async def list_prompt_versions_page(
        self,
        prompt: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListPromptVersionsResponse:
        """Return the prompt, and some of its versions, newest first, without content."""
        request = pb.ListPromptVersionsRequest(
            namespace=self.namespace,
            prompt=prompt,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        connection = self.connection
        return await connection.call(connection.prompts.ListPromptVersions, request, timeout)

    async def diff_prompt_versions(
        self, prompt: str, from_version: int, to_version: int, *, timeout: float | None = None
    ) -> pb.DiffPromptVersionsResponse:
        """Return what differs between two versions: text, variables, config."""
        request = pb.DiffPromptVersionsRequest(
            namespace=self.namespace,
            prompt=prompt,
            from_version=from_version,
            to_version=to_version,
        )
        connection = self.connection
        return await connection.call(connection.prompts.DiffPromptVersions, request, timeout)

    async def restore_prompt_version(
        self,
        prompt: str,
        version: int,
        *,
        reason: str,
        expected_latest: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.RestorePromptVersionResponse:
        """Write an old version again as a new one: content, variables and config. No label moves.

        Raises:
            RevisionConflict: the newest version is not `expected_latest`.
        """
        request = pb.RestorePromptVersionRequest(
            namespace=self.namespace,
            prompt=prompt,
            version=version,
            reason=reason,
            expected_latest=expected_latest,
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        return await connection.call(connection.prompts.RestorePromptVersion, request, timeout)

    async def resolve_prompt(
        self,
        prompt: str,
        *,
        agent_id: str = "",
        session_id: str = "",
        pin: bool = True,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> ResolvedPrompt:
        """Return what an agent has to use now, and why.

        Args:
            prompt: which prompt.
            agent_id: for which agent; empty: none.
            session_id: in which conversation: it keeps the first answer.
            pin: False: nothing is kept for the session, nor looked at.
            min_revision: wait until the replica that answers has seen that revision.
            timeout: see the class.

        Raises:
            NotFound: there is no such prompt or agent, or no label applies.
        """
        request = pb.ResolvePromptRequest(
            namespace=self.namespace,
            prompt=prompt,
            agent_id=agent_id,
            session_id=session_id,
            pin=pin,
            min_revision=min_revision,
        )
        connection = self.connection
        response = await connection.call(connection.prompts.ResolvePrompt, request, timeout)
        return ResolvedPrompt.from_message(response, agent_id, session_id)

    async def render_prompt(
        self,
        prompt: str,
        variables: Mapping[str, JsonValue] | None = None,
        *,
        version: int = 0,
        label: str = "",
        timeout: float | None = None,
    ) -> pb.RenderPromptResponse:
        """Return a version (0: of a label, empty: `production`) with its variables filled in.

        Raises:
            InvalidArgument: a variable is missing, unknown, of another type or too long.
        """
        request = pb.RenderPromptRequest(
            namespace=self.namespace,
            prompt=prompt,
            version=version,
            label=label,
            variables=to_struct(variables or {}),
        )
        connection = self.connection
        return await connection.call(connection.prompts.RenderPrompt, request, timeout)

    async def mark_prompt_used(self, used: ResolvedPrompt, *, timeout: float | None = None) -> bool:
        """Say that a prompt is sent to a model now; an experiment counts that, and nothing else.

        Returns:
            Whether an experiment has recorded it. Without one, nobody is asked.
        """
        if not used.experiment:
            return False
        request = pb.MarkPromptUsedRequest(
            namespace=self.namespace,
            prompt=used.name,
            version=used.version.version,
            content_sha256=used.content_sha256,
            agent_id=used.agent_id,
            session_id=used.session_id,
            experiment=used.experiment,
            variant=used.variant,
            experiment_phase=used.experiment_phase,
            is_fallback=used.is_fallback,
        )
        connection = self.connection
        response = await connection.call(connection.prompts.MarkPromptUsed, request, timeout)
        return response.recorded

    def watch_prompts(
        self, prompts: str | Sequence[str], *, agent_name: str = "", labels: Iterable[str] = ()
    ) -> PromptWatch:
        """Watch 1-1,000 prompts on one stream, across reconnects.

        Args:
            prompts: their names; they need not exist yet.
            agent_name: whose label is told as well; agents must name their own.
            labels: further labels besides `production`; agents may not name any.
        """
        connection = self.connection
        named = tuple(labels)

        def open_at(watched: list[pb.WatchedPrompt]) -> object:
            request = pb.WatchPromptsRequest(
                namespace=self.namespace, prompts=watched, agent_name=agent_name, labels=named
            )
            return connection.prompts.WatchPrompts(request, metadata=connection.call.metadata)

        return PromptWatch(open_at, one_of(prompts), caller=connection.call)

    def prompt_cache(
        self,
        prompts: str | Sequence[str],
        *,
        agent_id: str = "",
        agent_name: str = "",
        labels: Iterable[str] = (),
        fallbacks: Mapping[str, Fallback] | None = None,
        max_stale: float = MAX_STALE,
    ) -> PromptCache:
        """Return prompts that are kept up to date in this process, to be entered with `async with`.

        Args:
            prompts: names of 1-1,000 prompts.
            agent_id: who uses them; empty: nobody in particular.
            agent_name: its name; agents must name their own.
            labels: further labels that are asked for by name; agents may not name any.
            fallbacks: prompt -> what is used when there is nothing better.
            max_stale: seconds for which the last known state is used while the plane is away.
        """
        names = tuple(labels)
        watch = self.watch_prompts(prompts, agent_name=agent_name, labels=names)
        return PromptCache(
            watch,
            self.resolve_prompt,
            prompts=one_of(prompts),
            agent_id=agent_id,
            fallbacks=fallbacks or {},
            max_stale=max_stale,
        )
